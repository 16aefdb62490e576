"""What earlier rows said, so that a row that comes again is noticed, in its own file or in another split."""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from xxhash import xxh3_64_intdigest

from penala.conversations.faults import Fault

# what a row says: 64 bits each of its messages, its prompt and its prompt_id. A bare tuple: there are many of them
Said = tuple[int, int, int]
NONE = 0  # stands for no prompt or prompt_id; one digest in 2**64 is taken for it


def row_key(roles: tuple[str, ...], joined: str, more: str = "") -> int:
    """Return 64 bits that stand for what a row says: two rows share them when they are the same.

    `joined` are the texts with NUL between them. By the birthday bound, a million different rows collide with a chance
    of 3e-8.
    """
    seed = xxh3_64_intdigest(more.encode(), _roles_digest(roles)) if more else _roles_digest(roles)
    # UTF-16 is how most texts lie in memory that are not ASCII
    return xxh3_64_intdigest(joined.encode("ascii" if joined.isascii() else "utf-16-le"), seed)


@lru_cache(maxsize=4096)
def _roles_digest(roles: tuple[str, ...]) -> int:
    return xxh3_64_intdigest("\0".join(roles).encode())


def said_of(key: int, prompt: Any, prompt_id: Any) -> Said:
    """Take the digests of a row's columns."""
    return key, text_digest(prompt.encode()) if isinstance(prompt, str) else NONE, id_digest(prompt_id)


def id_digest(prompt_id: Any) -> int:
    """Return what stands for a prompt_id; a number is another one than its digits."""
    if isinstance(prompt_id, str):
        return text_digest(prompt_id.encode())
    return xxh3_64_intdigest(str(prompt_id).encode(), seed=1) if isinstance(prompt_id, int) else NONE


def text_digest(utf8: bytes) -> int:
    """Return what stands for a prompt."""
    return xxh3_64_intdigest(utf8)


def _are_new(digests: Sequence[int], known: dict[int, int]) -> bool:
    return len({*digests}) == len(digests) and known.keys().isdisjoint(digests)


class Seen:
    """The good rows so far, by what they say, by prompt and by prompt_id. Holds digests, not texts."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}  # digest -> number of the first row, from 0
        self._prompts: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._lines = array("Q")  # of every row
        self._prompt_of = array("Q")
        self._starts: list[int] = []  # number of each file's first row
        self._files: list[tuple[int, str]] = []  # the split that each file belongs to, and its name

    def begin(self, split: int, file: str) -> None:
        """Say where the rows that follow stand."""
        self._starts.append(len(self._lines))
        self._files.append((split, file))

    def look_all(self, said: Sequence[Sequence[int]], lines: Sequence[int]) -> Iterator[tuple[int, Fault]]:
        """Remember rows, given by the three columns of what they say; yield what they repeat, each with its line."""
        keys, prompts, ids = said
        # most often nothing is repeated, which sets and dictionaries tell faster than rows
        remembered = [(self._rows, keys)]
        if any(prompts):
            remembered += [(self._prompts, prompts), *([(self._ids, ids)] if any(ids) else [])]
        if all(NONE not in digests and _are_new(digests, known) for known, digests in remembered):
            rows = range(len(self._lines), len(self._lines) + len(lines))
            for known, digests in remembered:
                known.update(zip(digests, rows, strict=True))
            self._lines.extend(lines)
            self._prompt_of.extend(prompts)
            return
        for line, *row in zip(lines, *said, strict=True):
            yield from ((line, fault) for fault in self.look((row[0], row[1], row[2]), line))

    def look(self, said: Said, line: int) -> Sequence[Fault]:
        """Remember a row; return what it repeats. A repeated row is not blamed for its repeated prompt too."""
        key, prompt, prompt_id = said
        row = len(self._lines)
        self._lines.append(line)
        self._prompt_of.append(prompt)
        first = self._rows.setdefault(key, row)
        if first != row:
            if self._file_of(first)[0] != self._files[-1][0]:
                return [Fault("in_two_splits", "", f"stands in another split too, at {self._at(first)}")]
            return [Fault("duplicate", "", f"says the same as the row at {self._at(first)}")]
        if prompt == NONE:
            return ()
        faults = []
        first = self._prompts.setdefault(prompt, row)
        if first != row:
            faults.append(Fault("same_prompt", "prompt", f"the same prompt stands at {self._at(first)}"))
        if prompt_id != NONE:
            first = self._ids.setdefault(prompt_id, row)
            if self._prompt_of[first] != prompt:
                faults.append(Fault("same_prompt_id", "prompt_id", f"another prompt has this id at {self._at(first)}"))
        return faults

    def _file_of(self, row: int) -> tuple[int, str]:
        return self._files[bisect_right(self._starts, row) - 1]

    def _at(self, row: int) -> str:
        return f"{self._file_of(row)[1]}:{self._lines[row]}"
