"""What the bytes of JSON tell beside its values: how many lines and quotes stand there, and whether controls do."""

import importlib
import re
from typing import Any, NamedTuple

VECTOR_BYTES = 32 << 20  # from here on numpy pays for its import
_CONTROL = re.compile(rb"\\(?:u00[017]|b)")
_DEL = b"\x7f"
_CONTROL_CODE = re.compile(rb"00[017]")
_BACKSLASH, _QUOTE, _B, _U = b'\\"bu'


class Measured(NamedTuple):
    """What is counted in a block of JSON."""

    num_lines: int
    num_quotes: int  # around keys and texts; those within texts are escaped
    has_control: bool  # DEL, or the escape of a control character other than \t, \n, \f and \r


class Measure:
    """Measures blocks of a file of some size."""

    def __init__(self, file_bytes: int = 0) -> None:
        self._numpy: Any = importlib.import_module("numpy") if file_bytes >= VECTOR_BYTES else None
        self._mask: Any = self._numpy and self._numpy.empty(0, bool)  # a bool a byte, used again

    def of(self, block: bytes) -> Measured:
        """Measure a block."""
        if self._numpy is not None:
            return self._by_vectors(block)
        rest = _without_pairs(block)
        num_quotes = rest.count(b'"') - rest.count(b'\\"')
        return Measured(_num_lines(block), num_quotes, _has_control(rest))

    def _by_vectors(self, block: bytes) -> Measured:
        """Measure with few looks at each byte."""
        np = self._numpy
        characters = np.frombuffer(block, np.uint8)
        if len(characters) > len(self._mask):
            self._mask = np.empty(len(characters), bool)
        mask = self._mask[: len(characters)]
        num_quotes = np.count_nonzero(np.equal(characters, _QUOTE, out=mask))
        at = np.flatnonzero(np.equal(characters, _BACKSLASH, out=mask)) + 1
        escaped = characters.take(at, mode="clip")
        pairs = np.flatnonzero(escaped == _BACKSLASH)
        if len(pairs):
            escaped.put(_escaped(np, pairs) + 1, 0, mode="clip")  # these escape nothing
        num_quotes -= np.count_nonzero(escaped == _QUOTE)
        has_control = _DEL in block or (escaped == _B).any() or _has_control_code(block, characters, at[escaped == _U])
        return Measured(_num_lines(block), int(num_quotes), bool(has_control))


def _escaped(np: Any, pairs: Any) -> Any:
    """Return those of the backslashes before another one that escape it: in a run, each second does not."""
    rank = np.arange(len(pairs))
    starts = np.diff(pairs, prepend=-2) != 1
    rank -= np.maximum.accumulate(np.where(starts, rank, 0))
    return pairs[rank & 1 == 0]


def _has_control_code(block: bytes, characters: Any, codes: Any) -> bool:
    """Tell whether one of the \\u escapes, whose u stands at `codes`, is that of a control character."""
    for behind, highest in enumerate(b"007", 1):  # leaves few
        codes = codes[characters.take(codes + behind, mode="clip") <= highest]
    return any(_CONTROL_CODE.match(block, code + 1) for code in codes.tolist())


def _without_pairs(block: bytes) -> bytes:
    """Return a block without escaped backslashes: what follows a backslash now is escaped by it."""
    return block.replace(b"\\\\", b"")


def _has_control(rest: bytes) -> bool:
    return _DEL in rest or _CONTROL.search(rest) is not None


def _num_lines(block: bytes) -> int:
    """Count by `find`, which passes over the bytes between two line ends faster than `count` does."""
    num, at = 0, block.find(b"\n")
    while at >= 0:
        num, at = num + 1, block.find(b"\n", at + 1)
    return num + (not block.endswith(b"\n"))
