"""How long work says how far it is, and what else a user should know of it."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Called with what is being done, and how many steps of how many are done."""
Notice = Callable[[str], None]
"""Called with a sentence for the user."""


def silent(_step: str, _done: int, _total: int) -> None:
    """Report nothing."""


def say_nothing(_: str) -> None:
    """Show no sentence to the user."""
