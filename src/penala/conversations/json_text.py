"""JSON files: an object a line, an array, objects printed over several lines, {"data": [...]}, or columns."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from penala.conversations.decode import TOO_DEEP, is_too_deep
from penala.conversations.faults import Fault
from penala.conversations.lines import is_blank, line_blocks, unix_lines
from penala.conversations.records import Record

Blocks = Callable[[], Iterator[bytes]]
_SPACES = re.compile(r"[ \t\r\n]*")  # what JSON calls white space
_INDENT = 1 << 10  # more than that before a row is no indent
_GOES_ON = (b",", b"]", b"}")  # a line that begins like this belongs to the value before it
_OPENING = re.compile(r'\{\s*("[^"\\]*")\s*:')  # of an object: its first key
_WALK = json.JSONDecoder()  # only finds where a value ends; decode.py looks at it closely


def json_pieces(blocks: Blocks) -> Iterator[bytes | Record]:
    """Yield what a file holds whose UTF-8 bytes `blocks` yields from the start, as often as it is called.

    Where each line is a row these are blocks of whole lines, streamed; every other layout is held in memory once, and
    these are its records.
    """
    whole = line_blocks(blocks())
    ahead: list[bytes] = []
    lines: list[bytes] = []  # that are not blank
    while len(lines) < 3 and (block := next(whole, None)) is not None:
        ahead.append(block)
        lines += itertools.islice((line for line in unix_lines(block).split(b"\n") if not is_blank(line)), 3)
    if not lines:
        return
    if is_one_value_a_line(*lines[:3]):
        while ahead:
            yield ahead.pop(0)
        yield from whole
    else:
        del ahead
        yield from _values(_whole(blocks))


def _whole(blocks: Blocks) -> str:
    text = b"".join(blocks()).decode("utf-8", "surrogateescape")  # bad bytes belong to the row that holds them
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_one_value_a_line(first: bytes, second: bytes | None = None, third: bytes | None = None) -> bool:
    """Tell by the first lines that are not blank whether each line is a row of its own.

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
    if _is_json(text.removesuffix(b",")):
        return True
    after = second.lstrip()
    if after.startswith(_GOES_ON):
        return False
    if not text.endswith((b"{", b"[", b":", b",")):
        return True
    if text.endswith(b",") and _is_json(text + b'"": 0}'):  # in the row itself a key would follow
        return after.startswith(b"{")
    # a comma or an end would follow on a whole object within another value
    return after.startswith(b"{") and _is_json(after) and not (third or b"").lstrip().startswith(_GOES_ON)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


class _Text(str):
    """A text in which an error of JSON costs no more at its end than at its start: nobody asks for the line of one."""

    __slots__ = ()

    def count(self, *_: Any) -> int:
        return 0

    def rfind(self, *_: Any) -> int:
        return 0


def _values(text: str) -> Iterator[Record]:
    """Yield the rows of a file that is no row a line."""
    if columns := _columns(text):
        keys = next(iter(columns.values()))
        for number, key in enumerate(keys, 1):
            row = {name: cells[key] for name, cells in columns.items()}
            yield (number, Fault("too_deep", "", TOO_DEEP) if is_too_deep(row) else row)
    else:
        walk = _Walk(text)
        del text  # the walk may go on with another copy
        yield from walk.rows()


class _Walk:
    """Goes through JSON values that follow each other: lists of rows, objects that hold one under "data", or rows."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = _skip(text, 0)
        self._line, self._counted = 1, 0  # the line of the last row, and how far lines are counted

    def rows(self) -> Iterator[Record]:
        """Yield every row to the very end: what follows a list is not lost."""
        may_hold_rows = True  # an object; that of a file of objects is a row
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                self._go(self._at + 1)
                yield from self._elements()
            elif may_hold_rows and (found := _list_under_data(self._text, self._at)) is not None:
                inside, beside = found
                self._go(inside)
                yield from self._elements()
                beside += self._rest_of_object()
                if beside:
                    names = ", ".join(map(repr, beside))
                    yield (self._line, Fault("beside_data", "", f"only the rows under 'data' are read, not {names}"))
            else:
                yield self._value()[0]
                may_hold_rows = False

    def _go(self, at: int) -> None:
        self._at = _skip(self._text, at)

    def _value(self) -> tuple[Record, bool]:
        """Return the row that starts here, and whether it is whole; go on after it."""
        self._line += str.count(self._text, "\n", self._counted, self._at)
        self._counted = self._at
        end, is_whole = _end_of_value(self._text, self._at)
        if not is_whole and not isinstance(self._text, _Text):
            self._text = _Text(self._text)
        row = self._text[self._at : end].encode("utf-8", "surrogateescape")
        self._go(end)
        return (self._line, row), is_whole

    def _elements(self) -> Iterator[Record]:
        """Yield the elements of a list from the first one on; go on after its end."""
        is_whole, lacks_comma = True, False
        while self._at < len(self._text) and self._text[self._at] != "]":
            row, is_whole = self._value()
            yield (row[0], Fault("broken_json", "", "no comma stands before this row")) if lacks_comma else row
            lacks_comma = is_whole and not self._text.startswith((",", "]"), self._at)
            if self._text.startswith(",", self._at):
                self._go(self._at + 1)
        if self._at < len(self._text):
            self._go(self._at + 1)
        elif is_whole:  # else the last row has swallowed the end
            what = "the list is not closed after this row; was the file cut short?"
            yield (self._line, Fault("broken_json", "", what))

    def _rest_of_object(self) -> list[str]:
        """Go to the end of an object one of whose values was read; return the keys that were passed."""
        keys = []
        try:
            while self._text[self._at] == ",":
                key, at = _WALK.raw_decode(self._text, _skip(self._text, self._at + 1))
                at = _skip(self._text, at)
                if self._text[at] != ":":
                    break
                self._go(_WALK.raw_decode(self._text, _skip(self._text, at + 1))[1])
                keys.append(str(key))
            if self._text[self._at] == "}":
                self._go(self._at + 1)
        except (ValueError, IndexError, RecursionError):
            pass  # what cannot be passed is read as a row, which is broken
        return keys


def _end_of_value(text: str, start: int) -> tuple[int, bool]:
    """Return where the value ends, and whether it was whole."""
    try:
        return _WALK.raw_decode(text, start)[1], True
    except (ValueError, RecursionError):
        following = _after_broken(text, start)
        return (len(text) if following < 0 else following), False


def _after_broken(text: str, start: int) -> int:
    """Return where a row may begin after a broken value; -1 for nowhere.

    That is the next line that begins like this one did: printers indent each row alike. Where there is none, it is the
    next object that begins with the same key, and after what is left of a row the next object of all.
    """
    if text[start] not in "{[":
        return text.find("{", start)
    indent = text[max(start - _INDENT, 0) : start].rpartition("\n")[2]
    following = -1 if indent.strip() else text.find(f"\n{indent}{text[start]}", start)
    if following < 0:
        opening = _OPENING.match(text, start)
        alike = rf"\{{\s*{re.escape(opening[1])}\s*:" if opening else r"\n[ \t]*\{"
        found = re.compile(alike).search(text, opening.end() if opening else start)
        following = found.start() if found else -1
    return following


def _list_under_data(text: str, start: int) -> tuple[int, list[str]] | None:
    """Return where the first row lies in {..., "data": [{...}, ...]}, and the keys before; None for something else."""
    if not text.startswith("{", start):
        return None
    at = start
    keys: list[str] = []
    try:
        while text[at] in "{,":
            key, at = _WALK.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, at)
            if text[at] != ":":
                return None
            at = _skip(text, at + 1)
            if key == "data":
                inside = _skip(text, at + 1)
                return (inside, keys) if text[at] == "[" and text[inside] == "{" else None
            keys.append(str(key))
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
