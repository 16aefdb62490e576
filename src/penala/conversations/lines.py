"""Bytes cut where lines end: a line ends with LF, CRLF or CR, and a CR at the end of some bytes may be half a CRLF."""

import os
from collections.abc import Iterable, Iterator

_LOOK_BYTES = 1 << 13  # are searched at once for the end of a line
Range = tuple[int, int]


def line_ranges(file: int, start: int, end: int, num_bytes: int) -> Iterator[Range]:
    """Yield [start, end) of the parts of a file, of about so many bytes each, whose ends are ends of lines."""
    while start < end:
        border = min(_line_start(file, start + num_bytes), end)
        yield start, border
        start = border


def read_lines(file: int, start: int, end: int, num_bytes: int) -> Iterator[bytes]:
    """Yield what stands in these parts; a file that was cut short meanwhile ends early."""
    for first, border in line_ranges(file, start, end, num_bytes):
        while first < border and (block := os.pread(file, border - first, first)):
            yield block
            first += len(block)


def _line_start(file: int, at: int) -> int:
    """Return where the first line starts after `at`, or where the file ends."""
    while block := os.pread(file, _LOOK_BYTES, at):
        found = [end for end in (block.find(b"\n"), block.find(b"\r", 0, -1)) if end >= 0]
        if found:
            border = min(found) + 1
            return at + border + block.startswith(b"\n", border)
        at += max(len(block) - 1, 1)
    return at


def line_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes, cut where lines end."""
    started: list[bytes | memoryview] = []
    for block in blocks:
        if not started and block.endswith(b"\n"):
            yield block
            continue
        border = max(block.rfind(b"\n"), block.rfind(b"\r", 0, -1)) + 1
        view = memoryview(block)
        if border:
            yield b"".join([*started, view[:border]])
            started = []
        started.append(view[border:])
    if any(started):
        yield b"".join(started)


def unix_lines(block: bytes) -> bytes:
    """Return a block of whole lines with LF for CRLF and CR.

    Only these end a line: U+2028 and its like may stand inside JSON texts, a raw line end may not.
    """
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def numbered_lines(block: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Return the lines of a block, ended by LF, that are not blank, numbered from 0, and how many lines it has."""
    lines = block.split(b"\n")
    return [(number, line) for number, line in enumerate(lines) if not is_blank(line)], len(lines) - (not lines[-1])


def is_blank(line: bytes) -> bool:
    """Tell whether a line is no row."""
    return not line or line.isspace()
