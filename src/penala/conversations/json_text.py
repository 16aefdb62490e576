"""JSON files: an object a line, an array, objects printed over several lines, {"data": [...]}, or columns."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from penala.conversations.faults import Fault
from penala.conversations.records import Record

Blocks = Callable[[], Iterator[bytes]]
_SPACES = re.compile(r"[ \t\r\n]*")  # what JSON calls white space
_WALK = json.JSONDecoder()  # only finds where a value ends; decode.py looks at it closely


def json_records(blocks: Blocks) -> Iterator[Record]:
    """Yield the records of a file whose UTF-8 bytes `blocks` yields from the start, as often as it is called.

    Lines are streamed; every other layout is held in memory once.
    """
    lines = lines_of(blocks())
    first, second = next(lines, None), next(lines, None)
    if first is None:
        return
    if is_one_value_a_line(first[1], None if second is None else second[1]):
        ahead = [first] if second is None else [first, second]
        yield from itertools.chain(ahead, lines)
    else:
        text = b"".join(blocks()).decode("utf-8", "surrogateescape")  # bad bytes belong to the row that holds them
        yield from _values(text.replace("\r\n", "\n").replace("\r", "\n"))


def lines_of(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line) for every line that is not blank. Lines end with LF, CRLF or CR.

    Only these: U+2028 and its like may stand inside JSON texts, a raw line end may not.
    """
    number = 0
    for lines in _split(blocks):
        for number, line in enumerate(lines, number + 1):  # noqa: B020 - the count goes on from block to block
            if line and not line.isspace():
                yield number, line


def _split(blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines of block after block; a line that goes on in the next block comes with that one."""
    started: list[bytes] = []
    has_cr = False
    for block in blocks:
        has_cr = has_cr or b"\r" in block
        lines = block.split(b"\n")
        if len(lines) > 1:
            lines[0] = b"".join([*started, lines[0]])
            started = []
        started.append(lines.pop())
        yield _split_again(lines) if has_cr else lines
    yield _split_again([b"".join(started)])


def _split_again(lines: list[bytes]) -> list[bytes]:
    return [piece for line in lines for piece in line.removesuffix(b"\r").split(b"\r")]


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
