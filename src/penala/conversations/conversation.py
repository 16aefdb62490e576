"""What people said: messages, conversations, and what a check found in them."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from penala.conversations.visible import visible
from penala.errors import DataError

Level = Literal["error", "warning", "note"]
NOTHING: Mapping[str, Any] = {}  # shared by the many rows that have nothing more


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is "" where only tools are called; `extra` holds the other keys (tool_calls, weight, ...)."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Return what a chat template is given."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row: its messages, its tools, its other columns, and where it stands (not part of equality).

    `line` is the physical line where the record starts, `row` counts records, both from 1. A parquet file has no lines:
    there, `line` is the row.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None = field(default=None, hash=False)
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    row: int = field(default=0, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the canonical row: messages, tools where there are any, then the other columns."""
        tools = {} if self.tools is None else {"tools": list(self.tools)}
        return {"messages": [message.as_dict() for message in self.messages], **tools, **self.columns}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has to say. What concerns a whole file has `line` None; `path` lies inside the row."""

    file: str
    line: int | None
    path: str
    level: Level
    code: str
    message: str
    fix: str

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as `penala data check --json` prints it."""
        return asdict(self)

    def __str__(self) -> str:
        name = visible(self.file).replace("\n", "\\n")  # a line for each finding
        place = name if self.line is None else f"{name}:{self.line}"
        where = f"{place}: {self.path}" if self.path else place
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.level}: {where}: {self.message}{fix} [{self.code}]"


def write_jsonl(file: BinaryIO, conversations: Iterable[Conversation]) -> None:
    """Append canonical rows, one a line in UTF-8. The same conversations give the same bytes."""
    file.writelines(f"{json_line(conversation.as_dict())}\n".encode() for conversation in conversations)


def read_jsonl(path: Path) -> Iterator[Conversation]:
    """Yield the rows that `write_jsonl` wrote. They were checked before: anything else raises DataError."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                messages = tuple(_message(item) for item in row.pop("messages"))
                tools = row.pop("tools", None)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(
                    f"is not a row that penala wrote: {error}",
                    where=f"{path}:{number}",
                    fix="run the data preparation again",
                ) from error
            yield Conversation(messages, None if tools is None else tuple(tools), row, str(path), number, number)


def _message(item: dict[str, Any]) -> Message:
    role, content = item.pop("role"), item.pop("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise TypeError("role and content must be text")
    return Message(role, content, item or NOTHING)


def json_line(row: dict[str, Any]) -> str:
    """Return a canonical row as one line of JSON."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # NaN marks a missing value in parquet columns; JSON has no word for it but null
        return json.dumps(_without_nan(row), ensure_ascii=False, allow_nan=False, default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
