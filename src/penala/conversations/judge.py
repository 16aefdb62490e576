"""What the rules say of one row, without a look at other rows. Other processes can do this part of a check."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penala.conversations.conversation import NOTHING, Message
from penala.conversations.decode import decode_row
from penala.conversations.faults import CODES, Fault
from penala.conversations.lines import numbered_lines, unix_lines
from penala.conversations.messages import Turn
from penala.conversations.plain import PlainReader, PlainRows
from penala.conversations.records import Unreadable
from penala.conversations.rules import faults_of, has_marker
from penala.conversations.schemas import Names, Row, read_row, renamed
from penala.conversations.seen import Said, row_key, said_of

TOGETHER_BYTES = 1 << 20
# message keys that templates or training read
RENDERED_KEYS = {"tool_calls", "tool_call_id", "weight"}


class Verdict(NamedTuple):
    """What is said of a row. A bad row has an error among its faults, and says nothing."""

    faults: Sequence[Fault]
    said: Said | None
    has_marker: bool = False
    unrendered: Sequence[str] = ()  # keys that no template renders, once a message


class Contents(NamedTuple):
    """What a good row holds."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None
    columns: Mapping[str, Any]


@dataclass(slots=True)
class Verdicts:
    """What is said of the rows of some blocks. Lines are numbered from 0 in the first one."""

    num_bytes: int = 0
    num_lines: int = 0
    # of the rows of which nothing is to be said, in their order
    lines: "array[int]" = field(default_factory=lambda: array("Q"))
    said: "tuple[array[int], array[int], array[int]]" = field(
        default_factory=lambda: (array("Q"), array("Q"), array("Q"))
    )  # see Said
    markers: list[int] = field(default_factory=list)  # their lines that hold a marker
    others: list[tuple[int, Verdict]] = field(default_factory=list)  # (line, what is said) of the other rows

    def take(self, lines: Sequence[int], rows: PlainRows) -> None:
        """Take rows of which nothing is to be said."""
        self.lines.extend(lines)
        for column, digests in zip(self.said, rows.said, strict=True):
            column.fromlist(digests)
        self.markers += [lines[row] for row in rows.marked]


class Judge:
    """Judges the rows of one file of some size, in one schema; `columns` are those of its first row."""

    def __init__(self, schema: str, names: Names, columns: Sequence[str], file_bytes: int = 0) -> None:
        self.schema, self.names, self.columns = schema, names, columns
        self._plain = PlainReader(columns, file_bytes) if schema == "messages" and not names else None

    def blocks(self, blocks: Iterable[bytes]) -> Iterator[Verdicts]:
        """Judge blocks of whole lines; yield what is said of TOGETHER_BYTES of them, or of the rest, at a time."""
        verdicts, damage = Verdicts(), None
        try:
            for block in blocks:
                self._judge(block, verdicts)
                if verdicts.num_bytes >= TOGETHER_BYTES:
                    yield verdicts
                    verdicts = Verdicts()
        except Unreadable as error:  # the rows before it count
            damage = error
        if verdicts.num_lines:
            yield verdicts
        if damage is not None:
            raise damage

    def _judge(self, block: bytes, verdicts: Verdicts) -> None:
        """Judge a block of whole lines, and add what is said of it."""
        first = verdicts.num_lines
        verdicts.num_bytes += len(block)
        block = unix_lines(block)
        if self._plain is not None and (rows := self._plain.read_lines(block)) is not None:
            verdicts.num_lines += len(rows.messages)
            verdicts.take(range(first, verdicts.num_lines), rows)
            return
        lines, num_lines = numbered_lines(block)
        verdicts.num_lines += num_lines
        for number, line in lines:
            if self._plain is not None and (rows := self._plain.read(line)) is not None:
                verdicts.take((first + number,), rows)
            else:
                verdicts.others.append((first + number, self._careful(line)[0]))

    def rows(self, block: bytes) -> tuple[list[tuple[int, Verdict, Contents | None]], int]:
        """Judge a block of whole lines; return each row's line, from 0, with what `row` says, and how many lines."""
        block = unix_lines(block)
        if self._plain is not None and (rows := self._plain.read_lines(block)) is not None:
            return [(number, *row) for number, row in enumerate(_plain_rows(rows, self._plain))], len(rows.messages)
        lines, num_lines = numbered_lines(block)
        return [(number, *self.row(line)) for number, line in lines], num_lines

    def row(self, data: bytes | dict[str, Any] | Fault) -> tuple[Verdict, Contents | None]:
        """Judge one record; return what a good one holds too."""
        if self._plain is not None and isinstance(data, bytes) and (rows := self._plain.read(data)) is not None:
            return next(_plain_rows(rows, self._plain))
        verdict, row = self._careful(data)
        if row is None:
            return verdict, None
        messages = [Message(turn.role or "", turn.content or "", turn.extra or NOTHING) for turn in row.turns]
        return verdict, Contents(tuple(messages), row.tools, row.columns or NOTHING)

    def _careful(self, data: bytes | dict[str, Any] | Fault) -> tuple[Verdict, Row | None]:
        """Judge a record by every rule; the row is None when it is bad."""
        row, faults = self._read(data)
        if row is None or any(CODES[fault.code].level == "error" for fault in faults):
            return Verdict(faults, None), None
        texts = [turn.content or "" for turn in row.turns]
        messages = [{"role": _speaker(turn), "content": text} for turn, text in zip(row.turns, texts, strict=True)]
        extra = [turn.extra for turn in row.turns]
        more = json.dumps([extra, row.tools], sort_keys=True, default=str) if any(extra) or row.tools else ""
        said = said_of(row_key(messages, more), row.columns.get("prompt"), row.columns.get("prompt_id"))
        return Verdict(faults, said, any(map(has_marker, texts)), _unrendered(row)), row

    def _read(self, data: bytes | dict[str, Any] | Fault) -> tuple[Row | None, list[Fault]]:
        if isinstance(data, Fault):
            return None, [data]
        value, faults = decode_row(data) if isinstance(data, bytes) else (data, [])
        if not isinstance(value, dict):
            return None, faults or [Fault("not_an_object", "", f"is {_kind(value)}, not an object")]
        row = read_row(renamed(value, self.names), self.schema, self.names, faults)
        if row is not None:
            faults.extend(faults_of(row))
        return row, faults


def _plain_rows(rows: PlainRows, reader: PlainReader) -> Iterator[tuple[Verdict, Contents]]:
    """Yield what is said of plain rows, and what they hold."""
    said, marked = zip(*rows.said, strict=True), {*rows.marked}
    for row, (each, values, digests) in enumerate(zip(rows.messages, rows.columns, said, strict=True)):
        messages = tuple([Message(message.role, message.content, NOTHING) for message in each])
        columns = reader.column_values(values) or NOTHING
        yield Verdict((), digests, row in marked), Contents(messages, None, columns)


def _speaker(turn: Turn) -> str:
    """Return who speaks: schemas have names of their own for a role, but capitals and blanks are the row's."""
    return turn.written if turn.written.strip().lower() == turn.role else turn.role or ""


def _unrendered(row: Row) -> list[str]:
    return [
        key for turn in row.turns for key in turn.extra.keys() - RENDERED_KEYS if key != "name" or turn.role != "tool"
    ]


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
