"""How often each fault was tried and survived, as a table for people and for docs/promises.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Trial(NamedTuple):
    """One fault that is about to be brought about.

    Attributes:
        fault: its name in the table.
        bring_about: does it, and looks at what is left; it raises AssertionError when the fault was not survived.
        what: what exactly will be done, to do it again.
    """

    fault: str
    bring_about: Callable[[], object]
    what: str


@dataclass
class Tally:
    """Counts by the fault's name, in the order of the first trials."""

    tried: dict[str, int] = field(default_factory=dict)
    survived: dict[str, int] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)

    def attempt(self, trial: Trial) -> bool:
        """Bring about a fault; return whether it was survived. Any exception means that it was not."""
        self.tried[trial.fault] = self.tried.get(trial.fault, 0) + 1
        try:
            trial.bring_about()
        except Exception as error:
            self.losses.append(f"{trial.fault}, {trial.what}: {type(error).__name__}: {error}")
            return False
        self.survived[trial.fault] = self.survived.get(trial.fault, 0) + 1
        return True

    def table(self) -> str:
        """Return the table in Markdown."""
        rows = [(fault, f"{count:,}", f"{self.survived.get(fault, 0):,}") for fault, count in self.tried.items()]
        rows.append(("all", f"{sum(self.tried.values()):,}", f"{sum(self.survived.values()):,}"))
        lines = ["| fault | times tried | times survived |", "|---|---|---|"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


BEGIN, END = "<!-- table of make faults -->\n", "<!-- end of the table -->\n"


def write_table(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")
