"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say.

Most rows of most files are plain: text, one JSON object, the usual roles in order. A typed decode that leaves the texts
as they are written, and a handful of whole-row tests prove that. A row that is not proved plain is not bad: it takes
the slow way, where decode.py, schemas.py and rules.py look at each part of it. The two ways agree; a property test
holds them to it.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
from penala.conversations.seen import NONE, Said, id_digest, prompt_digest, row_key

# begins an escape that writers need not write; after an escaped backslash it only looks like one
ODD_ESCAPE = re.compile(rb'\\[^"\\nrt]')
_CONTROL = re.compile(rb"\\u00|\\b")
_VISIBLE = frozenset(range(0x21, 0x7F)) - {*b'"\\'}
_QUOTE = ord('"')
_NOT_PLAIN = ("tools", "functions")
_HOLE = "\ue000"
_STYLES = [
    (keys, separators)
    for separators in ((", ", ": "), (",", ":"))
    for keys in (("role", "content"), ("content", "role"))
]
_decode_text: Any = msgspec.json.Decoder(str).decode


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw


class PlainRow(msgspec.Struct, gc=False):
    """A row without a fault, its values as JSON texts."""

    roles: tuple[str, ...]
    contents: list[bytes]
    columns: dict[str, bytes]  # beside the messages, those that the row has
    said: Said
    has_marker: bool

    def texts(self) -> list[str]:
        """Return what each message says."""
        return [_decode_text(content) for content in self.contents]

    def column_values(self) -> dict[str, Any]:
        """Return the columns beside the messages."""
        return {name: msgspec.json.decode(value) for name, value in self.columns.items()}


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than prompt, prompt_id and `columns`."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        # decoders refuse odd names; a row with such a column, or with tools, is not plain
        names = [name for name in columns if name not in _NOT_PLAIN and name.isprintable() and not set(name) & {*'\\"'}]
        self._names = list(dict.fromkeys([*names, "prompt", "prompt_id", "messages"]))
        # a column's name need not be a Python name, so the fields are numbered
        self._fields = {name: f"column_{i}" for i, name in enumerate(self._names) if name != "messages"}
        absent = msgspec.Raw(b"")
        optional = [(at, msgspec.Raw, msgspec.field(default=absent, name=name)) for name, at in self._fields.items()]
        fields: list[Any] = [("messages", list[_Message]), *optional]
        row_type = msgspec.defstruct("_Row", fields, forbid_unknown_fields=True, gc=False)
        self._decode: Any = msgspec.json.Decoder(row_type).decode
        self._before = self._names.index("messages")  # so many columns stand before the messages
        self._forms: dict[tuple[Any, ...], bytes] = {}  # roles and columns -> how such a row is written

    def read(self, line: bytes, *, odd: bool) -> PlainRow | None:
        """Return the row when it is proved plain, else None. `odd`: the line matches ODD_ESCAPE."""
        try:
            row = self._decode(line)
            if not line.isascii():
                line.decode()  # decoders of JSON do not look at what they leave as it is
            contents = [bytes(message.content) for message in row.messages]
            roles = tuple([message.role for message in row.messages])
            columns = {name: value for name, at in self._fields.items() if (value := bytes(getattr(row, at)))}
            if (
                len(line) >= LONG_CHARACTERS
                or len(roles) > LONG_MESSAGES
                or not is_orderly(roles)
                or self._may_have_key_twice(line, roles, contents, columns)
                or not all(map(_is_flat, columns.values()))
            ):
                return None
            if odd:
                contents = [msgspec.json.encode(_decode_text(content)) for content in contents]
                columns = {name: _respelled(value) for name, value in columns.items()}
            joined = b"".join(contents)
            # JSON has no other control character than DEL unescaped
            if b"\x7f" in joined or (odd and _CONTROL.search(joined)) or not all(map(_speaks, contents)):
                return None
            said = _said(roles, joined, contents, columns)
            if said is None:
                return None
            may_mark = b"<" in joined or (b"[" in joined and b"INST]" in joined)
            marked = may_mark and has_marker("\0".join(map(_decode_text, contents)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return PlainRow(roles, contents, columns, said, marked)

    def _may_have_key_twice(
        self, line: bytes, roles: tuple[str, ...], contents: list[bytes], columns: dict[str, bytes]
    ) -> bool:
        """Tell whether a key may stand twice in an object: decoders keep the last value and say nothing.

        It does not in a line that is what json.dumps writes, nor in one that has no more quotes than its values need.
        """
        values = list(columns.values())
        values[self._before : self._before] = contents
        form = self._forms.get((roles, *columns))
        if form is None:
            written = (_written(self._names, roles, columns, *style) for style in _STYLES)
            form = next((form for form in written if form % tuple(values) == line), b"")
            self._forms[roles, *columns] = form
        if form and form % tuple(values) == line:
            return False
        needed = 2 + 8 * len(contents) + sum(4 if value[0] == _QUOTE else 2 for value in columns.values())
        return _num_bare_quotes(line) != needed


def _written(
    names: Sequence[str],
    roles: Sequence[str],
    columns: Mapping[str, bytes],
    keys: Sequence[str],
    separators: tuple[str, str],
) -> bytes:
    """Return how json.dumps writes a row, with %b for each value."""
    messages = [{key: role if key == "role" else _HOLE for key in keys} for role in roles]
    row = {name: messages if name == "messages" else _HOLE for name in names if name == "messages" or name in columns}
    text = json.dumps(row, ensure_ascii=False, separators=separators)
    return text.replace("%", "%%").replace(f'"{_HOLE}"', "%b").encode()


def _num_bare_quotes(line: bytes) -> int:
    r"""Count the quotes that no backslash escapes; in \\" the backslash is escaped itself."""
    rest = line.replace(b"\\\\", b"")
    return rest.count(b'"') - rest.count(b'\\"')


def _is_flat(value: bytes) -> bool:
    """Tell whether a column's value is no list and no object; raise ValidationError for a number that is none."""
    if value[0] in b"-0123456789":
        msgspec.json.decode(value)
    return value[0] not in b"[{"


def _respelled(value: bytes) -> bytes:
    return msgspec.json.encode(_decode_text(value)) if value[0] == _QUOTE else value


def _speaks(content: bytes) -> bool:
    """Tell whether a message has a text, and not of blanks only."""
    if content[0] == _QUOTE and content[1] in _VISIBLE:
        return True
    return content[0] == _QUOTE and INVISIBLE.fullmatch(_decode_text(content)) is None


def _said(roles: tuple[str, ...], joined: bytes, contents: list[bytes], columns: Mapping[str, bytes]) -> Said | None:
    """Return what a row says, or None when a rule may object to its prompt or prompt_id."""
    key, prompt, prompt_id = row_key(roles, joined), columns.get("prompt"), columns.get("prompt_id")
    if prompt_id == b"null":
        return None
    known_id = None if prompt_id is None else msgspec.json.decode(prompt_id)
    if prompt is None:
        return key, NONE, id_digest(known_id)
    if prompt != contents[roles.index("user")]:
        return None
    digest = hashlib.sha256(prompt[1:-1]).hexdigest() if b"\\" not in prompt else sha256(_decode_text(prompt))
    if known_id not in (None, digest) and (not isinstance(known_id, str) or is_sha256(known_id)):
        return None
    return key, prompt_digest(digest), id_digest(known_id)
