"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say.

Most rows of most files are plain: text, one JSON object, the usual roles in order. One typed decode and a handful of
whole-row tests prove that. A row that is not proved plain is not bad: it takes the slow way, where decode.py,
schemas.py and rules.py look at each part of it. The two ways agree; a property test holds them to it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from penala.conversations.rules import (
    INVISIBLE,
    LONG_CHARACTERS,
    LONG_MESSAGES,
    has_marker,
    is_orderly,
    is_sha256,
    sha256,
)
from penala.conversations.seen import Said, row_key

UNSET = msgspec.UNSET
_NOT_PLAIN = ("messages", "tools", "functions")


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class Proof(NamedTuple):
    """What stays of a row that was proved plain: digests of what it says (see seen.py), and of its columns."""

    said: Said
    has_marker: bool


class PlainRow(NamedTuple):
    """A row without a fault: who speaks, what they say, all of it in one text, and the decoded row itself."""

    roles: tuple[str, ...]
    texts: list[str]
    joined: str  # the texts with NUL between them
    decoded: Any  # has the attributes prompt and prompt_id, UNSET where the row has no such column

    def proof(self) -> Proof:
        """Return what is remembered of the row."""
        said = Said.of(row_key(self.roles, self.joined), self.decoded.prompt, self.decoded.prompt_id)
        return Proof(said, has_marker(self.joined))


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

    def read(self, line: bytes) -> PlainRow | None:
        """Return the row when it is proved plain, else None."""
        try:
            row = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        messages = row.messages
        roles = tuple([message.role for message in messages])
        texts = [message.content for message in messages]
        joined = "\0".join(texts)
        # a line with more quotes than its parts need has a key twice: decoders keep the last one and say nothing
        quotes = 2 + 8 * len(texts) + joined.count('"') + _quotes(row.prompt) + _quotes(row.prompt_id)
        for attribute in self._others.values():
            quotes += _quotes(getattr(row, attribute))
        plain = (
            is_orderly(roles)
            and len(texts) <= LONG_MESSAGES
            and len(joined) < LONG_CHARACTERS
            and line.count(b'"') == quotes
            and _says_something(texts, joined)
            and not _has_control_character(line, joined)
            and _fits(row.prompt, row.prompt_id, roles, texts)
        )
        return PlainRow(roles, texts, joined, row) if plain else None

    def columns_of(self, row: PlainRow) -> dict[str, Any]:
        """Return the other columns of a row."""
        values = {name: getattr(row.decoded, at) for name, at in self._fields.items()}
        return {name: value for name, value in values.items() if value is not UNSET}


def _quotes(value: Any) -> int:
    """Count the quotes that a column needs in JSON; far too few for a list or an object, whose rows are not plain."""
    if isinstance(value, str):
        return 4 + value.count('"')
    if value is UNSET:
        return 0
    return 2 if value is None or isinstance(value, int | float) else -1_000_000


def _says_something(texts: list[str], joined: str) -> bool:
    if joined.isascii():
        return "" not in texts and not any(map(str.isspace, texts))
    return not any(map(INVISIBLE.fullmatch, texts))


def _has_control_character(line: bytes, joined: str) -> bool:
    r"""Tell whether some text may hold one: JSON writes them as \u00XX or \b, only DEL may stand there raw."""
    return b"\\u00" in line or "\b" in joined or "\x7f" in joined


def _fits(prompt: Any, prompt_id: Any, roles: tuple[str, ...], texts: list[str]) -> bool:
    if prompt is UNSET:
        return prompt_id is not None
    if prompt != texts[roles.index("user")]:
        return False
    if prompt_id is UNSET:
        return True
    return isinstance(prompt_id, str) and (prompt_id == sha256(prompt) or not is_sha256(prompt_id))
