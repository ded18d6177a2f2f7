"""How long work tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Called with what is being done, and how many steps of how many are done."""


def silent(_step: str, _done: int, _total: int) -> None:
    """Report nothing."""
