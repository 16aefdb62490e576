"""What the bytes of JSON tell beside its values: how many lines and quotes stand there, and whether controls do."""

import importlib
import re
from typing import Any, NamedTuple

VECTOR_BYTES = 32 << 20  # from here on numpy pays for its import
_CONTROL = re.compile(rb"\\(?:u00[017]|b)")
_DEL = b"\x7f"
_LINE_END, _BACKSLASH, _QUOTE, _B, _U = b'\n\\"bu'


class Measured(NamedTuple):
    """What is counted in a block of JSON."""

    num_lines: int
    num_quotes: int  # around keys and texts; those within texts are escaped
    has_control: bool  # DEL, or the escape of a control character other than \t, \n, \f and \r


class Measure:
    """Measures blocks of a file of some size."""

    def __init__(self, file_bytes: int = 0) -> None:
        self._numpy: Any = importlib.import_module("numpy") if file_bytes >= VECTOR_BYTES else None

    def of(self, block: bytes) -> Measured:
        """Measure a block."""
        if self._numpy is not None and (found := self._by_vectors(block)) is not None:
            return found
        rest = _without_pairs(block)
        num_quotes = rest.count(b'"') - rest.count(b'\\"')
        return Measured(_num_lines(block, block.count(b"\n")), num_quotes, _has_control(rest))

    def _by_vectors(self, block: bytes) -> Measured | None:
        """Measure with few looks at each byte; None where a quote follows two backslashes."""
        np = self._numpy
        characters = np.frombuffer(block, np.uint8)
        backslashes = np.flatnonzero(characters == _BACKSLASH)
        behind = characters.take(backslashes + 1, mode="clip")
        escaped = behind == _QUOTE
        if (escaped[1:] & (np.diff(backslashes) == 1)).any():
            return None
        num_quotes = np.count_nonzero(characters == _QUOTE) - np.count_nonzero(escaped)
        num_lines = _num_lines(block, np.count_nonzero(characters == _LINE_END))
        looks_so = _DEL in block or (((behind == _B) | (behind == _U)).any() and _has_control(block))
        return Measured(int(num_lines), int(num_quotes), bool(looks_so and _has_control(_without_pairs(block))))


def _without_pairs(block: bytes) -> bytes:
    """Return a block without escaped backslashes: what follows a backslash now is escaped by it."""
    return block.replace(b"\\\\", b"")


def _has_control(rest: bytes) -> bool:
    return _DEL in rest or _CONTROL.search(rest) is not None


def _num_lines(block: bytes, num_line_ends: int) -> int:
    return num_line_ends + (not block.endswith(b"\n"))
