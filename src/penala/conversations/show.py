"""Rows for a person to read: who says what, what is called, and what a check says of it; bad rows are not hidden."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penala.conversations.check import Judged, check
from penala.conversations.conversation import Conversation, Finding, Message
from penala.conversations.faults import Fault
from penala.conversations.visible import excerpt, visible
from penala.errors import DataError, UsageError

COLUMN_WIDTH = 60
RECORD_WIDTH = 400  # of a bad row, as it was read
Line = tuple[str, str]  # what it is (a role, "place", "call", "more", or a level), and its text


class _Enough(Exception):
    """Ends the reading of a file: the rows that were asked for have been read."""


@dataclass(slots=True)
class _Window:
    """Keeps `limit` rows from the first one on whose number in its file is `row`."""

    row: int
    limit: int
    rows: list[Judged]
    read: dict[str, int] = field(default_factory=dict)  # rows by file

    def take(self, judged: Judged) -> None:
        self.read[judged.file] = judged.row
        if self.rows or judged.row == self.row:
            self.rows.append(judged)
            if len(self.rows) == self.limit:
                raise _Enough


def rows_from(
    path: Path, row: int, limit: int, *, schema: str = "auto", columns: Mapping[str, str] | None = None
) -> list[Judged]:
    """Return up to `limit` rows, good and bad, from record `row` (from 1) of the first file that has it.

    Reads no further than needed. Raises UsageError when there is no such record, DataError when a file of `path`
    cannot be read.
    """
    window = _Window(row, limit, [])
    try:
        checked = check([path], schema=schema, columns=columns, minimum_rows=0, each=window.take)
    except _Enough:
        return window.rows
    unreadable = next((one for one in checked.findings if one.level == "error" and one.line is None), None)
    if unreadable is not None and not window.rows:
        raise DataError(unreadable.message, where=unreadable.file, fix=unreadable.fix)
    if not window.rows:
        longest = max(window.read.values(), default=0)
        it = f"the longest of its {len(window.read)} files" if len(window.read) > 1 else "it"
        raise UsageError(f"there is no record {row}", where=str(path), fix=f"{it} has {longest}")
    return window.rows


def lines_of(judged: Judged) -> Iterator[Line]:
    """Yield the lines that show one row; nothing in them can disturb a terminal."""
    place = f"{judged.file}:{judged.line}"
    if judged.conversation is None:
        yield "place", visible(f"{place}  row {judged.row} is bad")
    else:
        yield from _conversation_lines(place, judged.conversation)
    for finding in judged.findings:
        yield finding.level, _said(finding)
    if judged.conversation is None and not isinstance(judged.record, Fault):  # of which nothing could be read
        yield "more", "as it was read: " + excerpt(_record_text(judged.record), RECORD_WIDTH)


def _conversation_lines(place: str, conversation: Conversation) -> Iterator[Line]:
    messages = conversation.messages
    characters = sum(len(message.content) for message in messages)
    yield "place", visible(f"{place}  row {conversation.row}  {len(messages)} messages, {characters:,} characters")
    if conversation.tools:
        yield "more", "tools: " + visible(", ".join(map(_tool_name, conversation.tools)))
    for message in messages:
        yield from _message_lines(message)
    for name, value in conversation.columns.items():
        yield "more", visible(f"{name}: {excerpt(_json(value), COLUMN_WIDTH)}")


def _message_lines(message: Message) -> Iterator[Line]:
    extra = dict(message.extra)
    calls = extra.pop("tool_calls", None) or []
    beside = ", ".join(f"{key}: {excerpt(_json(value), COLUMN_WIDTH)}" for key, value in extra.items())
    yield f"{message.role} name", visible(f"{message.role} ({beside})" if beside else message.role)
    for line in visible(message.content).split("\n") if message.content else []:
        yield message.role, f"  {line}"
    for call in calls if isinstance(calls, list | tuple) else [calls]:
        yield "call", "  calls " + visible(_call(call))


def _call(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        return _json(call)
    arguments = function.get("arguments", "")
    return f"{function['name']}({arguments if isinstance(arguments, str) else _json(arguments)})"


def _tool_name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    return str(function.get("name", "?") if isinstance(function, Mapping) else tool.get("name", "?"))


def _said(finding: Finding) -> str:
    path = f"{finding.path}: " if finding.path else ""
    return visible(f"{finding.level}: {path}{finding.message}; {finding.fix} [{finding.code}]")


def _record_text(record: bytes | dict[str, Any]) -> str:
    if isinstance(record, bytes):
        return record[: 4 * RECORD_WIDTH].decode("utf-8", "backslashreplace")
    return _json(record)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
