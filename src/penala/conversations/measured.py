"""Lines of JSON, each with what its bytes tell before it is decoded."""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from penala.conversations.json_text import is_blank, unix_lines

VECTOR_BYTES = 32 << 20  # from here on numpy pays for its import
_BRACE = ord("{")


class Measured(msgspec.Struct, gc=False):
    """A line, by its number from 0 in its block, and what is counted in its bytes."""

    number: int
    data: bytes | memoryview
    num_quotes: int  # that do not follow a backslash
    has_code: bool  # a backslash and `u` stand in it


class _Counter(Protocol):
    r"""Looks at lines [start, end) of a block: counts quotes without a backslash before them, and finds \u."""

    def num_quotes(self, start: int, end: int) -> int: ...

    def has_code(self, start: int, end: int) -> bool: ...


class _ByteCounter:
    """A counter that is ready at once."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def num_quotes(self, start: int, end: int) -> int:
        return self._block.count(b'"', start, end) - self._block.count(b'\\"', start, end)

    def has_code(self, start: int, end: int) -> bool:
        return self._block.find(b"\\u", start, end) >= 0


class _VectorCounter:
    """A counter of numpy's speed. It keeps its memory from block to block."""

    def __init__(self) -> None:
        import numpy

        self._numpy: Any = numpy
        self._room: Any = numpy.empty((3, 0), bool)

    def load(self, block: bytes) -> "_VectorCounter":
        np, size = self._numpy, len(block)
        if size > self._room.shape[1]:
            self._room = np.empty((3, size), bool)
        characters = np.frombuffer(block, np.uint8)
        slashes, self._quotes, self._codes = (row[:size] for row in self._room)
        np.equal(characters, ord("\\"), out=slashes)
        np.equal(characters, ord('"'), out=self._quotes)
        np.equal(characters, ord("u"), out=self._codes)
        np.greater(self._quotes[1:], slashes[:-1], out=self._quotes[1:])
        np.logical_and(self._codes[1:], slashes[:-1], out=self._codes[1:])
        self._codes[:1] = False
        self._has_codes = bool(self._codes.any())
        return self

    def num_quotes(self, start: int, end: int) -> int:
        return int(self._numpy.count_nonzero(self._quotes[start:end]))

    def has_code(self, start: int, end: int) -> bool:
        return self._has_codes and bool(self._codes[start:end].any())


class Measure:
    """Measures block after block of a file. `num_lines` is how many lines the last one had."""

    def __init__(self, file_bytes: int) -> None:
        self.num_lines = 0
        self._is_large = file_bytes >= VECTOR_BYTES
        self._vectors: _VectorCounter | None = None

    def lines(self, block: bytes) -> Iterator[Measured]:
        """Yield the lines of a block of whole lines that are not blank."""
        block = unix_lines(block)
        view = memoryview(block)
        counter = self._counter(block)
        number = start = 0
        while start < len(block):
            end = block.find(b"\n", start)
            if end < 0:
                end = len(block)
            if block[start] == _BRACE or not is_blank(block[start:end]):
                quotes, has_code = counter.num_quotes(start, end), counter.has_code(start, end)
                yield Measured(number, view[start:end], quotes, has_code)
            number += 1
            start = end + 1
        self.num_lines = number

    def _counter(self, block: bytes) -> _Counter:
        if not self._is_large:
            return _ByteCounter(block)
        if self._vectors is None:
            self._vectors = _VectorCounter()
        return self._vectors.load(block)


def measured(line: bytes) -> Measured:
    """Measure a line alone."""
    counter = _ByteCounter(line)
    return Measured(0, line, counter.num_quotes(0, len(line)), counter.has_code(0, len(line)))


def num_bare_quotes(line: bytes) -> int:
    r"""Count the quotes that no backslash escapes; in \\" the backslash is escaped itself."""
    rest = line.replace(b"\\\\", b"")
    return rest.count(b'"') - rest.count(b'\\"')
