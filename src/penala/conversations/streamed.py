"""Good rows that are read from their files whenever they are looked at, so that no split is held in memory."""

from array import array
from collections.abc import Iterator
from itertools import islice

from penala.conversations.check import Check
from penala.conversations.conversation import Conversation
from penala.errors import DataError


class StreamedRows:
    """The good rows [start, stop) of a check, in file order. A slice of them reads nothing either.

    Raises DataError when a file has other rows than it had when it was checked.
    """

    def __init__(self, checked: Check, start: int = 0, stop: int | None = None) -> None:
        self._checked = checked
        self._start = start
        self._stop = checked.good if stop is None else stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[Conversation]:
        count = 0
        for conversation in islice(self._checked.rows_again(), self._start, self._stop):
            count += 1
            yield conversation
        if count != len(self):
            files = " ".join(part.path for part in self._checked.parts)
            what = f"has {self._start + count} good rows now, {self._checked.good} when it was checked"
            raise DataError(what, where=files, fix="let nothing write to the file, and run the same again")

    def __getitem__(self, part: slice) -> "StreamedRows":
        start, stop, _ = part.indices(len(self))
        return StreamedRows(self._checked, self._start + start, self._start + max(start, stop))

    @property
    def keys(self) -> "array[int]":
        """What each row says, in 64 bits: rows that say the same have the same key."""
        keys = array("q")
        for part in self._checked.parts:
            keys.extend(part.keys)
        return keys[self._start : self._stop]
