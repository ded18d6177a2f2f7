"""What long work says of itself, taken down."""

from __future__ import annotations

from collections.abc import Callable

from pythia_quant.core.progress import Progress


class Heard(Progress):
    """Takes down steps, parts and sentences; `at_step` is called with how many steps of a kind are done."""

    def __init__(self, at_step: Callable[[int], None] = lambda _: None) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notices: list[str] = []
        self.parts: list[tuple[str, str]] = []
        self._at_step = at_step

    def step(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))
        self._at_step(done)

    def part(self, name: str, outcome: str) -> None:
        self.parts.append((name, outcome))

    def notice(self, text: str) -> None:
        self.notices.append(text)
