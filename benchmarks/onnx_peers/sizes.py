"""The result file of speeds: conversions and rounds of measurements, by the size of the model."""

from __future__ import annotations

from peers.store import Record, Store


class SizeStore(Store):
    """A result file whose samples belong to sizes."""

    def conversions(self, size: str) -> dict[str, Record]:
        """Return the records of conversions, by the name of a subject."""
        found: dict[str, Record] = self._size(size).setdefault("conversions", {})
        return found

    def rounds(self, size: str, name: str) -> dict[str, Record]:
        """Return a subject's measurements, by the number of the round as text."""
        found: dict[str, Record] = self._size(size).setdefault("rounds", {}).setdefault(name, {})
        return found

    def sizes(self) -> dict[str, Record]:
        """Return all that was measured, by size."""
        found: dict[str, Record] = self.data.setdefault("sizes", {})
        return found

    def forget(self, name: str) -> None:
        """Remove all records of a subject."""
        for size in self.sizes().values():
            size.get("conversions", {}).pop(name, None)
            size.get("rounds", {}).pop(name, None)

    def _size(self, size: str) -> Record:
        return self.sizes().setdefault(size, {})
