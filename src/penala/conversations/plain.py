"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say.

Most rows of most files are plain: text, one JSON object, the usual roles in order. A typed decode that leaves values as
they are written, and a handful of whole-row tests prove that. A row that is not proved plain is not bad: it takes the
slow way, where decode.py, schemas.py and rules.py look at each part of it. The two ways agree; a property test holds
them to it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

import msgspec

from penala.conversations.rules import (
    INVISIBLE,
    LONG_CHARACTERS,
    LONG_MESSAGES,
    has_marker,
    is_orderly,
    is_sha256,
)
from penala.conversations.seen import NONE, Said, id_digest, row_key, text_digest

# begins an escape that writers need not write; after an escaped backslash it only looks like one
ODD_ESCAPE = re.compile(rb'\\[^"\\nrt]')
_CONTROL = re.compile(rb"\\u00|\\b")
_SPEAKING = frozenset(bytes([*b'"', first]) for first in range(0x21, 0x7F) if first not in b'"\\')
_SIMPLE = frozenset({b"", b'"', b"t", b"f", b"n"})  # begin no number, no list and no object
_HOLE = "\ue000"
_NOT_PLAIN = ("messages", "tools", "functions")
_STYLES = [
    (keys, separators)
    for separators in ((", ", ": "), (",", ":"))
    for keys in (("role", "content"), ("content", "role"))
]
_role_of, _content_of = attrgetter("role"), attrgetter("content")
_decode_text: Any = msgspec.json.Decoder(str).decode


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw


class PlainRow(msgspec.Struct, gc=False):
    """A row without a fault, its values as JSON texts."""

    roles: tuple[str, ...]
    contents: list[bytes]
    columns: list[bytes]  # those of the reader; empty where the row has none
    said: Said
    has_marker: bool

    def texts(self) -> list[str]:
        """Return what each message says."""
        return [_decode_text(content) for content in self.contents]


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than prompt, prompt_id and `columns`."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        # decoders refuse odd names; a row with such a column, or with tools, is not plain
        names = [name for name in columns if name.isprintable() and not set(name) & {*'\\"'}]
        self._order = list(dict.fromkeys([*names, "prompt", "prompt_id", "messages"]))
        self._before = self._order.index("messages")  # so many columns stand before the messages
        self._columns = [name for name in self._order if name not in _NOT_PLAIN]
        self._prompt, self._prompt_id = map(self._columns.index, ("prompt", "prompt_id"))
        # a column's name need not be a Python name, so the fields are numbered
        fields = {name: f"column_{i}" for i, name in enumerate(self._columns)}
        absent = msgspec.Raw(b"")
        optional = [(at, msgspec.Raw, msgspec.field(default=absent, name=name)) for name, at in fields.items()]
        members: list[Any] = [("messages", list[_Message]), *optional]
        row_type = msgspec.defstruct("_Row", members, forbid_unknown_fields=True, gc=False)
        self._decode: Any = msgspec.json.Decoder(row_type).decode
        self._columns_of = attrgetter(*fields.values())
        self._forms: dict[tuple[Any, ...], bytes] = {}  # roles and columns -> how such a row is written

    def read(self, line: bytes, *, odd: bool) -> PlainRow | None:
        """Return the row when it is proved plain, else None. `odd`: the line matches ODD_ESCAPE."""
        try:
            row = self._decode(line)
            if not line.isascii():
                line.decode()  # decoders of JSON do not look at what they leave as it is
            roles = tuple(map(_role_of, row.messages))
            contents = list(map(bytes, map(_content_of, row.messages)))
            columns = list(map(bytes, self._columns_of(row)))
            if (
                len(line) >= LONG_CHARACTERS
                or len(roles) > LONG_MESSAGES
                or not is_orderly(roles)
                or self._may_have_key_twice(line, roles, contents, columns)
                or not (_SIMPLE.issuperset([value[:1] for value in columns]) or all(map(_is_flat, columns)))
            ):
                return None
            if odd:
                contents, columns = list(map(_respelled, contents)), list(map(_respelled, columns))
            joined = b"".join(contents)
            if (
                not (_SPEAKING.issuperset([content[:2] for content in contents]) or all(map(_speaks, contents)))
                or b"\x7f" in joined
                or (odd and _CONTROL.search(joined))  # JSON has no other control characters unescaped
            ):
                return None
            said = self._said(roles, contents, joined, columns)
            may_mark = b"<" in joined or (b"[" in joined and b"INST]" in joined)
            marked = may_mark and has_marker("\0".join(map(_decode_text, contents)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return PlainRow(roles, contents, columns, said, marked) if said is not None else None

    def column_values(self, row: PlainRow) -> dict[str, Any]:
        """Return the columns beside the messages that a row has."""
        return {
            name: msgspec.json.decode(value) for name, value in zip(self._columns, row.columns, strict=True) if value
        }

    def _may_have_key_twice(
        self, line: bytes, roles: tuple[str, ...], contents: list[bytes], columns: list[bytes]
    ) -> bool:
        """Tell whether a key may stand twice in an object: decoders keep the last value and say nothing.

        It does not in a line that is what json.dumps writes, nor in one that has no more quotes than its values need.
        """
        if b"" in columns:
            return _num_bare_quotes(line) != _num_needed(contents, columns)
        values = (*columns[: self._before], *contents, *columns[self._before :])
        form = self._forms.get(roles)
        if form is None:
            forms = [_form(self._order, roles, *style) for style in _STYLES]
            form = self._forms[roles] = next((form for form in forms if form % values == line), forms[0])
        return form % values != line and _num_bare_quotes(line) != _num_needed(contents, columns)

    def _said(self, roles: tuple[str, ...], contents: list[bytes], joined: bytes, columns: list[bytes]) -> Said | None:
        """Return what a row says, or None when a rule may object to its prompt or prompt_id."""
        prompt, prompt_id = columns[self._prompt], columns[self._prompt_id]
        if prompt_id == b"null" or (prompt and prompt != contents[roles.index("user")]):
            return None
        if prompt and prompt_id and not _is_id_of(prompt_id, prompt):
            return None
        of_prompt = text_digest(prompt) if prompt else NONE
        of_id = NONE
        if prompt_id.startswith(b'"'):
            of_id = text_digest(prompt_id)
        elif prompt_id:
            of_id = id_digest(msgspec.json.decode(prompt_id))
        return row_key(roles, joined), of_prompt, of_id


def _form(names: Sequence[str], roles: Sequence[str], keys: Sequence[str], separators: tuple[str, str]) -> bytes:
    """Return how json.dumps writes a row, with %b for each value."""
    messages = [{key: role if key == "role" else _HOLE for key in keys} for role in roles]
    row = {name: messages if name == "messages" else _HOLE for name in names}
    text = json.dumps(row, ensure_ascii=False, separators=separators)
    return text.replace("%", "%%").replace(f'"{_HOLE}"', "%b").encode()


def _num_bare_quotes(line: bytes) -> int:
    r"""Count the quotes that no backslash escapes; in \\" the backslash is escaped itself."""
    rest = line.replace(b"\\\\", b"")
    return rest.count(b'"') - rest.count(b'\\"')


def _num_needed(contents: list[bytes], columns: list[bytes]) -> int:
    """Count the quotes around keys and texts."""
    return 2 + 8 * len(contents) + sum(4 if value.startswith(b'"') else 2 for value in columns if value)


def _is_flat(value: bytes) -> bool:
    """Tell whether a column's value is no list and no object; raise ValidationError for a number that is too large."""
    msgspec.json.decode(value or b"0")
    return not value.startswith((b"[", b"{"))


def _respelled(value: bytes) -> bytes:
    return msgspec.json.encode(_decode_text(value)) if value.startswith(b'"') else value


def _speaks(content: bytes) -> bool:
    """Tell whether a message has a text, and not of blanks only."""
    return content.startswith(b'"') and INVISIBLE.fullmatch(_decode_text(content)) is None


def _is_id_of(prompt_id: bytes, prompt: bytes) -> bool:
    """Tell whether an id is the SHA-256 of the prompt, or a text that does not look like one."""
    text = prompt[1:-1] if b"\\" not in prompt else _decode_text(prompt).encode()
    return prompt_id[1:-1] == hashlib.sha256(text).hexdigest().encode() or (
        prompt_id.startswith(b'"') and not is_sha256(_decode_text(prompt_id))
    )
