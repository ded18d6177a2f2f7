"""Where the command line prints: results on standard output, progress and errors on the other one."""

from __future__ import annotations

from rich.console import Console

from pythia_quant.errors import PythiaQuantError

# Tables take up to 100 columns: on a narrower terminal a wrapped line is better than a number cut short.
out_console = Console(width=max(100, Console().width))
progress_console = Console(stderr=True)


def example(*commands: str) -> str:
    """Return the end of a command's help."""
    return "Example:\n\n" + "\n\n".join(f"[cyan]{command}[/]" for command in commands)


def print_error(error: PythiaQuantError) -> None:
    """Print what the user can act on."""
    progress_console.print("[bold red]error:[/] ", end="")
    progress_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
