"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say.

Most rows of most files are plain: text, one JSON object, the usual roles in order. One typed decode and a handful of
whole-row tests prove that. A row that is not proved plain is not bad: it takes the slow way, where decode.py,
schemas.py and rules.py look at each part of it. The two ways agree; a property test holds them to it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from penala.conversations.rules import INVISIBLE, LONG_CHARACTERS, LONG_MESSAGES, is_orderly, is_sha256, sha256


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class PlainRow(NamedTuple):
    """A row without a fault: who speaks, what they say, all of it in one text, and the decoded row itself."""

    roles: tuple[str, ...]
    texts: list[str]
    joined: str  # the texts with NUL between them
    decoded: Any


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than `columns`."""

    def __init__(self, columns: Sequence[str]) -> None:
        names = [column for column in columns if column not in ("messages", "tools", "functions")]
        # a column's name need not be a Python name, so the fields are numbered
        self._fields = {name: f"column_{i}" for i, name in enumerate(names)}
        others = [(at, Any, msgspec.field(default=msgspec.UNSET, name=name)) for name, at in self._fields.items()]
        fields: list[Any] = [("messages", list[_Message]), *others]
        row_type = msgspec.defstruct("_Row", fields, forbid_unknown_fields=True, gc=False)
        self._decode = msgspec.json.Decoder(row_type).decode

    def read(self, line: bytes) -> PlainRow | None:
        """Return the row when it is proved plain, else None."""
        try:
            row: Any = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        roles = tuple([message.role for message in row.messages])
        if not is_orderly(roles) or len(roles) > LONG_MESSAGES:
            return None
        texts = [message.content for message in row.messages]
        joined = "\0".join(texts)
        plain = (
            len(joined) - len(texts) < LONG_CHARACTERS
            and _says_something(texts, joined)
            and _has_no_control_character(line, joined)
            and line.count(b'"') == 2 + 8 * len(texts) + joined.count('"') + self._quotes_of_columns(row)
            and self._fits_prompt(row, roles, texts)
        )
        return PlainRow(roles, texts, joined, row) if plain else None

    def columns_of(self, row: PlainRow) -> dict[str, Any]:
        """Return the other columns of a row."""
        values = {name: getattr(row.decoded, at) for name, at in self._fields.items()}
        return {name: value for name, value in values.items() if value is not msgspec.UNSET}

    def column(self, row: PlainRow, name: str) -> Any:
        """Return one column of a row, None where it has none of that name."""
        value = getattr(row.decoded, self._fields[name]) if name in self._fields else None
        return None if value is msgspec.UNSET else value

    def _quotes_of_columns(self, row: Any) -> int:
        """Count the quotes that the other columns need in JSON; -1 million for a column that is a list or an object.

        When a line holds more quotes than its parts need, a key stands there twice: decoders keep the last one and say
        nothing.
        """
        quotes = 0
        for at in self._fields.values():
            value = getattr(row, at)
            if isinstance(value, str):
                quotes += 4 + value.count('"')
            elif value is None or isinstance(value, int | float):
                quotes += 2
            elif value is not msgspec.UNSET:
                return -1_000_000
        return quotes

    def _fits_prompt(self, row: Any, roles: tuple[str, ...], texts: list[str]) -> bool:
        fields = self._fields
        prompt = getattr(row, fields["prompt"]) if "prompt" in fields else msgspec.UNSET
        if prompt is not msgspec.UNSET and prompt != texts[roles.index("user")]:
            return False
        prompt_id = getattr(row, fields["prompt_id"]) if "prompt_id" in fields else msgspec.UNSET
        if prompt_id is msgspec.UNSET:
            return True
        if not isinstance(prompt_id, str):
            return False
        return prompt is msgspec.UNSET or not is_sha256(prompt_id) or prompt_id == sha256(prompt)


def _says_something(texts: list[str], joined: str) -> bool:
    if joined.isascii():
        return "" not in texts and not any(map(str.isspace, texts))
    return not any(map(INVISIBLE.fullmatch, texts))


def _has_no_control_character(line: bytes, joined: str) -> bool:
    r"""Tell that no text holds one: JSON writes them as \u00XX or \b, only DEL may stand there raw."""
    return b"\\u00" not in line and "\b" not in joined and "\x7f" not in joined
