"""The shapes that conversations come in. Each is read into the same turns; columns may go by other names."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

from penala.conversations.decode import decode_text
from penala.conversations.faults import Fault
from penala.conversations.messages import ROLES, Turn, read_content, read_list, read_turn, say_nulls
from penala.errors import UsageError, near

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
# columns that tell what is said, or what is worth learning, in data sets of one kind or another
SPEAKING = ("system", "system_prompt", "history", "input", "chosen", "rejected", "label")
# what our columns are called elsewhere
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "query", "input", "user", "human"),
    "completion": ("response", "answer", "output", "reply", "assistant", "target"),
    "instruction": ("question", "query", "task"),
    "output": ("response", "answer", "reply", "target"),
    "messages": ("conversation", "conversations", "dialogue", "dialog", "chat", "turns", "items"),
    "conversations": ("conversation", "messages", "dialogue", "dialog", "chat", "turns", "items"),
}
_LIST_START = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")
Names = Mapping[str, str]  # our column name -> the file's


@dataclass(slots=True)
class Row:
    """One row as read. It is `whole` when every turn could be read as far as its role."""

    turns: list[Turn]
    tools: tuple[Mapping[str, Any], ...] | None = None
    columns: dict[str, Any] = field(default_factory=dict)  # what nobody consumed
    whole: bool = True


class Schema(NamedTuple):
    """A shape of rows: the columns that it needs and may have, and the function that reads its turns."""

    needs: tuple[str, ...]
    may_have: tuple[str, ...]
    read: Callable[[dict[str, Any], Names, list[Fault]], list[Turn | None]]


def _read_messages(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    path = names.get("messages", "messages")
    keys = names.get("role", "role"), names.get("content", "content")
    return _read_items(row["messages"], path, keys, ROLES, faults)


def _read_sharegpt(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    path = names.get("conversations", "conversations")
    keys = names.get("from", "from"), names.get("value", "value")
    turns = _read_items(row["conversations"], path, keys, SHAREGPT_ROLES, faults)
    return [*_system(row, names, faults), *turns]


def _read_items(
    value: Any, path: str, keys: tuple[str, str], roles: Mapping[str, str], faults: list[Fault]
) -> list[Turn | None]:
    items = read_list(value, path, faults)
    if items is None:
        return [None]
    return [read_turn(item, f"{path}[{i}]", keys, roles, faults) for i, item in enumerate(items)]


def _read_alpaca(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    question = _column(row, "instruction", "user", names, faults)
    more = read_content("" if row.get("input") is None else row["input"], names.get("input", "input"), faults)
    if question.content is not None and more is not None and more.strip():
        question.content += "\n\n" + more
    return [
        *_system(row, names, faults),
        *_history(row, names, faults),
        question,
        _column(row, "output", "assistant", names, faults),
    ]


def _history(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    """Read the earlier turns that LLaMA-Factory keeps beside an instruction: [[question, answer], ...]."""
    path = names.get("history", "history")
    turns: list[Turn | None] = []
    pairs = read_list(row["history"], path, faults) if row.get("history") else None
    for i, pair in enumerate(pairs or []):
        here = f"{path}[{i}]"
        if not (isinstance(pair, list) and len(pair) == 2):
            faults.append(Fault("content_object", here, "is not a pair of question and answer"))
            continue
        for j, role in enumerate(("user", "assistant")):
            turns.append(_text_turn(role, pair[j], f"{here}[{j}]", faults))
    return turns


def _read_prompt_completion(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    if isinstance(row["prompt"], list) or all(map(_is_written_list, (row["prompt"], row["completion"]))):
        return [  # the conversational form: both are lists of messages
            turn
            for column in ("prompt", "completion")
            for turn in _read_items(row[column], names.get(column, column), ("role", "content"), ROLES, faults)
        ]
    return [
        *_system(row, names, faults),
        _column(row, "prompt", "user", names, faults),
        _column(row, "completion", "assistant", names, faults),
    ]


def _is_written_list(value: Any) -> bool:
    """Tell whether a table holds a list of messages as text: JSON, or what str() makes of it."""
    return isinstance(value, str) and _LIST_START.match(value) is not None


def _read_list_of_texts(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    path = names.get("data", "data")
    texts = read_list(row["data"], path, faults)
    if texts is None:
        return [None]
    return [_text_turn(("user", "assistant")[i % 2], text, f"{path}[{i}]", faults) for i, text in enumerate(texts)]


def _system(row: dict[str, Any], names: Names, faults: list[Fault]) -> list[Turn | None]:
    return [] if row.get("system") in (None, "") else [_column(row, "system", "system", names, faults)]


def _column(row: dict[str, Any], column: str, role: str, names: Names, faults: list[Fault]) -> Turn:
    return _text_turn(role, row[column], names.get(column, column), faults)


def _text_turn(role: str, value: Any, path: str, faults: list[Fault]) -> Turn:
    return Turn(role, read_content(value, path, faults), path, path, path, written=role)


# In the order of detection: a row that fits several is what comes first here.
SCHEMAS: Mapping[str, Schema] = {
    "messages": Schema(("messages",), ("tools", "functions"), _read_messages),
    "sharegpt": Schema(("conversations",), ("system", "tools"), _read_sharegpt),
    "alpaca": Schema(("instruction", "output"), ("input", "system", "history"), _read_alpaca),
    "prompt_completion": Schema(("prompt", "completion"), ("system", "tools"), _read_prompt_completion),
    "list_of_texts": Schema(("data",), (), _read_list_of_texts),
}
_GUESSABLE = ("messages", "sharegpt", "prompt_completion", "alpaca")
_KEYS = {"messages": "role", "conversations": "from"}  # a key of the messages in such a list
COLUMNS = frozenset(column for schema in SCHEMAS.values() for column in schema.needs + schema.may_have)
MESSAGE_KEYS = frozenset({"role", "content", "from", "value"})


def check_names(schema: str, names: Names) -> None:
    """Raise UsageError for a schema, or for a column to be renamed, that does not exist, and for one used twice."""
    if schema != "auto" and schema not in SCHEMAS:
        raise _unknown("schema", schema, ["auto", *SCHEMAS])
    for name in names:
        if name not in COLUMNS | MESSAGE_KEYS:
            raise _unknown("columns", name, sorted(COLUMNS | MESSAGE_KEYS))
    for their, count in Counter(names.values()).items():
        if count > 1:
            twice = " and ".join(name for name in names if names[name] == their)
            raise UsageError(f"'{their}' is named as {twice}", where="columns", fix="name it once")


def _unknown(where: str, name: str, known: list[str]) -> UsageError:
    return UsageError(f"'{name}' is not known", where=where, fix=near(name, known) or f"use one of {', '.join(known)}")


def renamed(row: dict[str, Any], names: Names) -> dict[str, Any]:
    """Return the row under our column names. A column that had one of them gives way to what is named so."""
    if not names:
        return row
    theirs = {their: our for our, their in names.items() if our not in MESSAGE_KEYS and their in row}
    taken = {our for their, our in theirs.items() if our != their}
    return {theirs.get(key, key): value for key, value in row.items() if key in theirs or key not in taken}


def unread_columns(row: dict[str, Any], schema: str) -> list[str]:
    """Return the columns of a row that stand beside what `schema` reads and usually mean something for training."""
    used = {*SCHEMAS[schema].needs, *SCHEMAS[schema].may_have}
    return [name for name in SPEAKING if name not in used and row.get(name) not in (None, "", [])]


def schema_of(row: Any) -> str | None:
    """Return the first schema whose columns a row has, or None."""
    if not isinstance(row, dict):
        return None
    for name, schema in SCHEMAS.items():
        if all(column in row for column in schema.needs):
            return name if name != "list_of_texts" or _is_list_of_texts(row["data"]) else None
    return None


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def commonest_schema(rows: Iterable[Any]) -> str:
    """Return the schema that most rows have; messages where none has any, and before others at a draw."""
    votes = Counter(name for row in rows if (name := schema_of(row)) is not None)
    return max(SCHEMAS, key=lambda name: votes[name])


def read_row(row: dict[str, Any], schema: str, names: Names, faults: list[Fault]) -> Row | None:
    """Read a row in `schema`, noting faults; None when it is of another shape. The row uses our column names."""
    if not row:
        faults.append(Fault("empty_object", "", "is an empty object"))
        return None
    if any(column not in row for column in SCHEMAS[schema].needs):
        faults.append(_other_shape(row, schema, names))
        return None
    turns = SCHEMAS[schema].read(row, names, faults)
    consumed = {*SCHEMAS[schema].needs, *SCHEMAS[schema].may_have, "messages", "tools"}
    return Row(
        turns=[turn for turn in turns if turn is not None],
        tools=_read_tools(row, names, faults),
        columns={key: value for key, value in row.items() if key not in consumed},
        whole=all(turn is not None and turn.role is not None for turn in turns),
    )


def _other_shape(row: dict[str, Any], schema: str, names: Names) -> Fault:
    other = schema_of(row)
    if other is not None:
        return Fault("other_schema", "", f"is {other}, the file is {schema}")
    if set(row) == {"text"}:
        return Fault("text", "text", "is plain text, not a conversation")
    if rows := next((name for name, value in row.items() if _is_list_of_rows(value)), None):
        return Fault("no_messages", rows, "is a list of rows", "write that list alone into a file, or name it `data`")
    if schema == "messages":  # what stands there when nobody knows better
        schema = max(_GUESSABLE, key=lambda name: _fit(row, name, names))
    meant = {ours: _likely(row, ours, names) for ours in SCHEMAS[schema].needs if ours not in row}
    what = f"has no {' and no '.join(repr(names.get(ours, ours)) for ours in meant)}"
    options = " ".join(f"--column {ours}={theirs or 'THEIRS'}" for ours, theirs in meant.items())
    return Fault(
        "no_messages" if schema == "messages" else "missing_column",
        "",
        f"{what}, only {', '.join(sorted(map(repr, row)))[:200]}",
        f"name {schema}'s columns with `columns` ({options})",
    )


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and schema_of(value[0]) is not None


def _fit(row: dict[str, Any], schema: str, names: Names) -> tuple[bool, int]:
    """Tell how well a row could be of a schema: whether every column may be there, and how many are."""
    needs = SCHEMAS[schema].needs
    return all(ours in row or _likely(row, ours, names) for ours in needs), sum(ours in row for ours in needs)


def _likely(row: dict[str, Any], ours: str, names: Names) -> str | None:
    """Return the column of a row that is probably meant by one of ours."""
    lower = {key.lower(): key for key in row if not (key in COLUMNS and isinstance(row[key], str))}
    wanted = names.get(ours, ours).lower()
    found = next((lower[name] for name in (wanted, *ALIASES.get(ours, ())) if name in lower), None)
    if found is None and (close := get_close_matches(wanted, lower, n=1)):
        found = lower[close[0]]
    return found if found is None or ours not in _KEYS or _may_hold(row[found], _KEYS[ours]) else None


def _may_hold(value: Any, key: str) -> bool:
    """Tell whether a value may be a list of messages that have `key`."""
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    return isinstance(value, list) and (not value or not isinstance(value[0], dict) or key in value[0])


def _read_tools(row: dict[str, Any], names: Names, faults: list[Fault]) -> tuple[Mapping[str, Any], ...] | None:
    tools, path = row.get("tools"), names.get("tools", "tools")
    if tools is None and isinstance(row.get("functions"), list):  # OpenAI before tools
        tools = [{"type": "function", "function": function} for function in row["functions"]]
    if isinstance(tools, str) and tools.strip():
        tools, found = decode_text(tools, path)
        faults.extend(found)
    if not tools:
        return None
    if not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        faults.append(Fault("bad_tools", path, "is not a list of tools"))
        return None
    say_nulls(tools, path, faults)
    return tuple(tools)
