"""What earlier rows said, so that a row that comes again is noticed, in its own file or in another split."""

import importlib
import sys
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from penala.conversations.faults import Fault

# what a row says: 64 bits each of its messages, its prompt and its prompt_id. A bare tuple: there are many of them
Said = tuple[int, int, int]
NONE = 0  # stands for no prompt or prompt_id; one digest in 2**64 is taken for it
VECTOR_ROWS = 1 << 17  # from here on numpy pays for its import; where it is there, it is used for fewer

# messages as bytes: of msgspec's structs that have a role and a content, in this order, or of such dictionaries
spoken: Callable[[Sequence[Any]], bytes] = msgspec.msgpack.Encoder().encode

# 64 bits that stand for a text, or for what is spoken: two rows share them when they are the same. By the birthday
# bound, a million different rows collide with a chance of 3e-8
digest: Callable[[bytes], int] = xxh3_64_intdigest


def row_key(messages: Sequence[Any], more: str) -> int:
    """Return what stands for a row, which says more than its messages, or nothing more."""
    key = digest(spoken(messages))
    return xxh3_64_intdigest(more.encode(), key) if more else key


def said_of(key: int, prompt: Any, prompt_id: Any) -> Said:
    """Take the digests of a row's columns."""
    return key, digest(prompt.encode()) if isinstance(prompt, str) else NONE, id_digest(prompt_id)


def id_digest(prompt_id: Any) -> int:
    """Return what stands for a prompt_id; a number is another one than its digits."""
    if isinstance(prompt_id, str):
        return digest(prompt_id.encode())
    return xxh3_64_intdigest(str(prompt_id).encode(), seed=1) if isinstance(prompt_id, int) else NONE


class Seen:
    """The good rows so far, by what they say, by prompt and by prompt_id. Holds digests, not texts.

    Rows are told what they repeat one by one as they come (`look`), or all at the end (`take` and `repeats`).
    """

    def __init__(self) -> None:
        self._said = array("Q"), array("Q"), array("Q")  # see Said, of every row
        self._lines = array("Q")
        self._starts: list[int] = []  # number of each file's first row, from 0
        self._files: list[tuple[int, str]] = []  # the split that each file belongs to, and its name
        self._first_rows: dict[int, int] = {}  # digest -> number of the first row that has it
        self._first_prompts: dict[int, int] = {}
        self._first_ids: dict[int, int] = {}

    def begin(self, split: int, file: str) -> None:
        """Say where the rows that follow stand."""
        self._starts.append(len(self._lines))
        self._files.append((split, file))

    def take(self, said: Sequence[Sequence[int]], lines: Sequence[int]) -> None:
        """Remember rows, given by the three columns of what they say."""
        for column, digests in zip(self._said, said, strict=True):
            column.extend(digests)
        self._lines.extend(lines)

    def look(self, said: Said, line: int) -> Sequence[Fault]:
        """Remember a row; return what it repeats."""
        self.take([(part,) for part in said], (line,))
        return self._look(len(self._lines) - 1)

    def repeats(self) -> Iterator[tuple[int, int, int, Fault]]:
        """Yield what rows repeat: the number of the file and of its good row, both from 0, the line, the fault."""
        for row in sorted(set().union(*map(_repeated, self._said))):
            file = self._file_of(row)
            yield from ((file, row - self._starts[file], self._lines[row], fault) for fault in self._look(row))

    def _look(self, row: int) -> Sequence[Fault]:
        """Return what a row repeats of those looked at. A repeated row is not blamed for its repeated prompt too."""
        key, prompt, prompt_id = (column[row] for column in self._said)
        first = self._first_rows.setdefault(key, row)
        if first != row:
            if self._files[self._file_of(first)][0] != self._files[self._file_of(row)][0]:
                return [Fault("in_two_splits", "", f"stands in another split too, at {self._at(first)}")]
            return [Fault("duplicate", "", f"says the same as the row at {self._at(first)}")]
        if prompt == NONE:
            return ()
        faults = []
        first = self._first_prompts.setdefault(prompt, row)
        if first != row:
            faults.append(Fault("same_prompt", "prompt", f"the same prompt stands at {self._at(first)}"))
        if prompt_id != NONE:
            first = self._first_ids.setdefault(prompt_id, row)
            if self._said[1][first] != prompt:
                faults.append(Fault("same_prompt_id", "prompt_id", f"another prompt has this id at {self._at(first)}"))
        return faults

    def _file_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _at(self, row: int) -> str:
        return f"{self._files[self._file_of(row)][1]}:{self._lines[row]}"


def _repeated(digests: "array[int]") -> set[int]:
    """Return the rows whose digest stands more than once."""
    np = importlib.import_module("numpy") if len(digests) >= VECTOR_ROWS else sys.modules.get("numpy")
    if np is None:
        counts = Counter(digests)
        return {row for row, digest in enumerate(digests) if digest != NONE and counts[digest] > 1}
    column = np.frombuffer(digests, np.uint64)
    rows = np.flatnonzero(column)  # not NONE
    rows = rows[np.argsort(column[rows])]
    is_same = column[rows[1:]] == column[rows[:-1]]
    return {*rows[1:][is_same].tolist(), *rows[:-1][is_same].tolist()}
