"""JSON files: an object a line, an array, objects printed over several lines, {"data": [...]}, or columns."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from penala.conversations.faults import Fault
from penala.conversations.records import Record

Blocks = Callable[[], Iterator[bytes]]
_SPACES = re.compile(r"[ \t\r\n]*")  # what JSON calls white space
_WALK = json.JSONDecoder()  # only finds where a value ends; decode.py looks at it closely


def json_pieces(blocks: Blocks) -> Iterator[bytes | Record]:
    """Yield what a file holds whose UTF-8 bytes `blocks` yields from the start, as often as it is called.

    Where each line is a row these are blocks of whole lines, streamed; every other layout is held in memory once, and
    these are its records.
    """
    whole = line_blocks(blocks())
    ahead: list[bytes] = []
    lines: list[bytes] = []  # that are not blank
    while len(lines) < 2 and (block := next(whole, None)) is not None:
        ahead.append(block)
        lines += itertools.islice((line for line in unix_lines(block).split(b"\n") if not is_blank(line)), 2)
    if not lines:
        return
    if is_one_value_a_line(lines[0], lines[1] if len(lines) > 1 else None):
        while ahead:
            yield ahead.pop(0)
        yield from whole
    else:
        del ahead
        text = b"".join(blocks()).decode("utf-8", "surrogateescape")  # bad bytes belong to the row that holds them
        yield from _values(text.replace("\r\n", "\n").replace("\r", "\n"))


def line_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes, cut where lines end."""
    started: list[bytes | memoryview] = []
    for block in blocks:
        # a CR at the end may be half of a CRLF
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


def is_blank(line: bytes) -> bool:
    """Tell whether a line is no row."""
    return not line or line.isspace()


def is_one_value_a_line(first: bytes, second: bytes | None) -> bool:
    """Tell by the first two lines that are not blank whether each line is a row of its own.

    A list, a lone object and a line that ends within an object may hold or begin several rows. A broken first line
    among good ones stays a broken line.
    """
    text = first.strip()
    if text.startswith(b"["):
        return second is not None and _is_json(text)
    if not text.startswith(b"{"):
        return True
    if second is None:
        return False
    if text.endswith(b","):
        return second.lstrip().startswith(b"{")  # within an object a key would follow
    return not text.endswith((b"{", b"[", b":"))


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _values(text: str) -> Iterator[Record]:
    start = _skip(text, 0)
    if text.startswith("[", start):
        yield from _rows(text, start + 1, in_list=True)
    elif (inside := _list_under_data(text, start)) is not None:
        yield from _rows(text, inside, in_list=True)
    elif columns := _columns(text):
        keys = next(iter(columns.values()))
        for number, key in enumerate(keys, 1):
            yield (number, {name: cells[key] for name, cells in columns.items()})
    else:
        yield from _rows(text, start, in_list=False)


def _rows(text: str, start: int, *, in_list: bool) -> Iterator[Record]:
    """Yield each value from `start` on: the elements of a list, or values that follow each other."""
    line, counted, at = 1, 0, _skip(text, start)
    while at < len(text) and not (in_list and text[at] == "]"):
        line += text.count("\n", counted, at)
        counted = at
        end, follows = _end_of_value(text, at)
        yield (line, text[at:end].encode("utf-8", "surrogateescape"))
        at = _skip(text, end)
        if in_list and follows:
            if text.startswith(",", at):
                at = _skip(text, at + 1)
            elif not text.startswith("]", at) and at < len(text):
                yield (line, Fault("broken_json", "", "no comma stands between this row and the next"))
    if in_list and at >= len(text):
        yield (line, Fault("broken_json", "", "the list is not closed after this row; was the file cut short?"))


def _end_of_value(text: str, start: int) -> tuple[int, bool]:
    """Return where the value ends, and whether it was whole.

    After a broken one go on at the next line that begins like this one did: printers indent each row alike.
    """
    try:
        return _WALK.raw_decode(text, start)[1], True
    except (ValueError, RecursionError):
        indent = text[text.rfind("\n", 0, start) + 1 : start]
        following = -1 if indent.strip() else text.find(f"\n{indent}{text[start]}", start)
        return (len(text) if following < 0 else following), False


def _list_under_data(text: str, start: int) -> int | None:
    """Return where the first row lies in {..., "data": [{...}, ...]}, or None when the text is something else."""
    if not text.startswith("{", start):
        return None
    at = start
    try:
        while text[at] in "{,":
            key, at = _WALK.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, at)
            if text[at] != ":":
                return None
            at = _skip(text, at + 1)
            if key == "data":
                inside = _skip(text, at + 1)
                return inside if text[at] == "[" and text[inside] == "{" else None
            _, at = _WALK.raw_decode(text, at)
            at = _skip(text, at)
    except (ValueError, IndexError, RecursionError):
        pass
    return None


def _columns(text: str) -> dict[str, dict[str, Any]] | None:
    """Return {column: {"0": cell, ...}}, which pandas to_json writes by default, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value:
        return None
    if not all(isinstance(cells, dict) and cells for cells in value.values()):
        return None
    keys = next(iter(value.values())).keys()
    same = all(cells.keys() == keys for cells in value.values()) and all(key.isdigit() for key in keys)
    return value if same else None


def _skip(text: str, start: int) -> int:
    found = _SPACES.match(text, start)
    return found.end() if found is not None else start
