"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say.

Most rows of most files are plain: text, one JSON object, the usual roles in order. One typed decode and a handful of
whole-row tests prove that. A row that is not proved plain is not bad: it takes the slow way, where decode.py,
schemas.py and rules.py look at each part of it. The two ways agree; a property test holds them to it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from penala.conversations.measured import Measured, num_bare_quotes
from penala.conversations.rules import (
    CONTROL,
    INVISIBLE,
    LONG_CHARACTERS,
    LONG_MESSAGES,
    is_orderly,
    is_sha256,
    sha256,
)
from penala.conversations.seen import NONE, Said, id_digest, prompt_digest, row_key

UNSET = msgspec.UNSET
_NOT_PLAIN = ("messages", "tools", "functions")
_FAR_TOO_FEW = -1_000_000_000


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class PlainRow(msgspec.Struct, gc=False):
    """A row without a fault: who speaks, what they say, all of it in one text, and the decoded row itself."""

    roles: tuple[str, ...]
    texts: list[str]
    joined: str  # the texts with NUL between them
    decoded: Any  # its attributes are the columns, UNSET where the row has no such column
    said: Said


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than prompt, prompt_id and `columns`."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        # decoders refuse odd names; a row with such a column, or with tools, is not plain
        names = [name for name in columns if name not in _NOT_PLAIN and name.isprintable() and not set(name) & {*'\\"'}]
        others = [name for name in names if name not in ("prompt", "prompt_id")]
        # a column's name need not be a Python name, so the fields of others are numbered
        self._others = {name: f"column_{i}" for i, name in enumerate(others)}
        self._fields = {"prompt": "prompt", "prompt_id": "prompt_id", **self._others}
        optional = [(at, Any, msgspec.field(default=UNSET, name=name)) for name, at in self._fields.items()]
        fields: list[Any] = [("messages", list[_Message]), *optional]
        row_type = msgspec.defstruct("_Row", fields, forbid_unknown_fields=True, gc=False)
        self._decode: Any = msgspec.json.Decoder(row_type).decode

    def read(self, line: Measured) -> PlainRow | None:
        """Return the row when it is proved plain, else None."""
        try:
            row = self._decode(line.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        messages = row.messages
        texts = [message.content for message in messages]
        roles = tuple([message.role for message in messages])
        joined = "\0".join(texts)
        if (
            not is_orderly(roles)
            or len(texts) > LONG_MESSAGES
            or len(joined) >= LONG_CHARACTERS
            or self._has_key_twice(line, row, len(texts), joined)
            or _is_silent(texts, joined)
            # JSON writes control characters as \u00XX or \b; only DEL may stand there raw
            or "\b" in joined
            or "\x7f" in joined
            or (line.has_code and any(map(CONTROL.search, texts)))
        ):
            return None
        key, prompt, prompt_id = row_key(roles, joined), row.prompt, row.prompt_id
        if prompt is UNSET:
            if prompt_id is None:
                return None
            return PlainRow(roles, texts, joined, row, (key, NONE, id_digest(prompt_id)))
        if prompt != texts[roles.index("user")]:
            return None
        digest = sha256(prompt)
        if prompt_id is not UNSET and prompt_id != digest and (not isinstance(prompt_id, str) or is_sha256(prompt_id)):
            return None
        return PlainRow(roles, texts, joined, row, (key, prompt_digest(digest), id_digest(prompt_id)))

    def _has_key_twice(self, line: Measured, row: Any, num_texts: int, joined: str) -> bool:
        """Tell whether a line has more quotes than its parts need: decoders keep the last value and say nothing."""
        needed = 2 + 8 * num_texts + _num_quotes(row.prompt) + _num_quotes(row.prompt_id)
        for attribute in self._others.values():
            needed += _num_quotes(getattr(row, attribute))
        # a text that ends in a backslash hides a quote; a lost value hides none without bringing more
        if line.num_quotes == needed and "\\" not in joined:
            return False
        return num_bare_quotes(bytes(line.data)) != needed

    def columns_of(self, row: PlainRow) -> dict[str, Any]:
        """Return the other columns of a row."""
        values = {name: getattr(row.decoded, at) for name, at in self._fields.items()}
        return {name: value for name, value in values.items() if value is not UNSET}


def _num_quotes(value: Any) -> int:
    """Count the quotes that stand around a column's name and text.

    Far too few for a list, an object, or a text that hides a quote behind a backslash: their rows are not plain.
    """
    if isinstance(value, str):
        return 4 if not value.endswith("\\") else _FAR_TOO_FEW
    if value is UNSET:
        return 0
    return 2 if value is None or isinstance(value, int | float) else _FAR_TOO_FEW


def _is_silent(texts: list[str], joined: str) -> bool:
    if joined.isascii():
        return "" in texts or any(map(str.isspace, texts))
    starts = "".join([text[:1] for text in texts])
    if starts.isascii() and starts.isalnum() and len(starts) == len(texts):
        return False
    return any(map(INVISIBLE.fullmatch, texts))
