"""Labels whose values come from outside, and that are bounded all the same."""

from typing import Final

OTHER: Final = "other"


class BoundedLabels:
    """The first `most` values are themselves; what comes later is `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The label of a value."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value
