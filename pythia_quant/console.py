"""Where the command line prints: results on standard output, progress and errors on the other one."""

from __future__ import annotations

from rich.console import Console

# Tables take up to 100 columns: on a narrower terminal a wrapped line is better than a number cut short.
out_console = Console(width=max(100, Console().width))
progress_console = Console(stderr=True)


def example(*commands: str) -> str:
    """Return the end of a command's help."""
    return "Example:\n\n" + "\n\n".join(f"[cyan]{command}[/]" for command in commands)
