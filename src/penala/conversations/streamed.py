"""Good rows that are read from their files whenever they are looked at, so that no split is held in memory."""

from array import array
from collections.abc import Iterator
from itertools import islice

from penala.conversations.check import Check
from penala.conversations.conversation import Conversation


class StreamedRows:
    """The good rows [start, stop) of a check, in file order. A slice of them reads nothing either.

    Looking at them raises DataError when a file no longer has the rows that were checked.
    """

    def __init__(self, checked: Check, start: int = 0, stop: int | None = None) -> None:
        self._checked = checked
        self._start = start
        self._stop = checked.good if stop is None else stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[Conversation]:
        return islice(self._checked.rows_again(self._start), len(self))

    def __getitem__(self, part: slice) -> "StreamedRows":
        start, stop, _ = part.indices(len(self))
        return StreamedRows(self._checked, self._start + start, self._start + max(start, stop))

    @property
    def keys(self) -> "array[int]":
        """What each row says, in 64 bits: rows that say the same have the same key."""
        keys = array("Q")
        for part in self._checked.parts:
            keys.extend(part.keys)
        return keys[self._start : self._stop]
