"""The fast way through a file of good rows: prove in a few operations a block that no rule has anything to say.

Most rows of most files are plain: text, one JSON object, the usual roles in order. A typed decode that leaves values as
they are written, and a handful of whole-row tests prove that. A row that is not proved plain is not bad: it takes the
slow way, where decode.py, schemas.py and rules.py look at each part of it. The two ways agree; a property test holds
them to it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import msgspec

from penala.conversations.rules import INVISIBLE, LONG_CHARACTERS, LONG_MESSAGES, has_marker, is_orderly, is_sha256
from penala.conversations.seen import NONE, id_digest, row_key, text_digest

# begins an escape that writers need not write; after an escaped backslash it only looks like one
_ODD_ESCAPE = re.compile(rb'\\[^"\\nrt]')
_CONTROL = re.compile(rb"\\u00|\\b|\x7f")
_QUOTE = ord('"')
_VISIBLE = frozenset(range(0x21, 0x7F)) - {*b'"\\'}
_HOLE = "\ue000"
_NOT_PLAIN = ("tools", "functions")
_role_of, _content_of, _messages_of = attrgetter("role"), attrgetter("content"), attrgetter("messages")
_decode_text: Any = msgspec.json.Decoder(str).decode
_Roles = tuple[str, ...]


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw


class PlainRows(msgspec.Struct, gc=False):
    """Rows without a fault; each list has one item a row."""

    roles: list[_Roles]
    contents: list[list[bytes | msgspec.Raw]]  # JSON texts
    columns: list[tuple[bytes | msgspec.Raw, ...]]  # JSON values of the reader's columns, empty where a row has none
    said: tuple[list[int], list[int], list[int]]  # see Said
    has_marker: list[bool]

    def texts(self, row: int) -> list[str]:
        """Return what each message of a row says."""
        return list(map(_decode_text, self.contents[row]))


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than prompt, prompt_id and `columns`."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        # decoders refuse odd names; a row with such a column, or with tools, is not plain
        names = [name for name in columns if name not in _NOT_PLAIN and name.isprintable() and not set(name) & {*'\\"'}]
        order = list(dict.fromkeys([*names, "prompt", "prompt_id", "messages"]))
        self._before = order.index("messages")  # so many columns stand before the messages
        self._columns = [name for name in order if name != "messages"]
        self._prompt, self._prompt_id = map(self._columns.index, ("prompt", "prompt_id"))
        self._others = [at for at in range(len(self._columns)) if at not in (self._prompt, self._prompt_id)]
        # a column's name need not be a Python name, so the fields are numbered
        fields = {name: f"column_{i}" for i, name in enumerate(self._columns)}
        absent = msgspec.Raw(b"")
        optional = [(at, msgspec.Raw, msgspec.field(default=absent, name=name)) for name, at in fields.items()]
        members: list[Any] = [("messages", list[_Message]), *optional]
        row_type = msgspec.defstruct("_Row", members, forbid_unknown_fields=True, gc=False)
        decoder: Any = msgspec.json.Decoder(row_type)
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._columns_of: Callable[[Any], tuple[msgspec.Raw, ...]] = attrgetter(*fields.values())
        self._styles = [
            _Style(order, keys, separators)
            for separators in ((", ", ": "), (",", ":"))
            for keys in (("role", "content"), ("content", "role"))
        ]

    def read_lines(self, block: bytes) -> PlainRows | None:
        """Return the rows of a block, one a line, when all are proved plain, else None: then each alone may be."""
        if _ODD_ESCAPE.search(block):
            return None
        return self._proved(self._decode_lines, block, alone=False)

    def read(self, row: bytes) -> PlainRows | None:
        """Return one row when it is proved plain, else None."""
        return self._proved(lambda row: [self._decode(row)], row, alone=True)

    def column_values(self, columns: Sequence[bytes | msgspec.Raw]) -> dict[str, Any]:
        """Return the columns of a row by name, those that it has."""
        values = {name: bytes(value) for name, value in zip(self._columns, columns, strict=True)}
        return {name: msgspec.json.decode(value) for name, value in values.items() if value}

    def _proved(self, decode: Callable[[bytes], list[Any]], block: bytes, *, alone: bool) -> PlainRows | None:
        try:
            return self._prove(decode(block), block, alone=alone)
        except (_NotPlainError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _prove(self, rows: list[Any], block: bytes, *, alone: bool) -> PlainRows:
        """Raise _NotPlainError unless nothing is to be said."""
        messages = list(map(_messages_of, rows))
        roles = [tuple(map(_role_of, each)) for each in messages]
        contents: list[list[Any]] = [list(map(_content_of, each)) for each in messages]
        columns: list[tuple[Any, ...]] = list(map(self._columns_of, rows))
        _require(all(map(is_orderly, roles)) and max(map(len, roles), default=0) <= LONG_MESSAGES)
        # of a key that stands twice decoders keep the last value. None does in what json.dumps writes, nor in a line
        # that has no more quotes than its values need
        lines = self._written(block, roles, contents, columns)
        if lines is None:
            lines = [block] if alone else block.removesuffix(b"\n").split(b"\n")
            _require(list(map(_num_bare_quotes, lines)) == list(map(_num_needed, contents, columns)))
        _require(max(map(len, lines), default=0) < LONG_CHARACTERS)
        for line in lines:
            if not line.isascii():
                line.decode()  # decoders of JSON do not look at what they leave as it is
        odd = alone and _ODD_ESCAPE.search(block)
        if odd:
            contents = [list(map(_respelled, each)) for each in contents]
            columns = [tuple(map(_respelled, each)) for each in columns]
        joined = list(map(b"".join, contents))
        # JSON has no other control characters than DEL unescaped
        _require(b"\x7f" not in block and not (odd and any(map(_CONTROL.search, joined))))
        texts: Iterable[memoryview] = map(memoryview, chain.from_iterable(contents))
        for content in texts:
            if content[0] != _QUOTE or content[1] not in _VISIBLE:
                _require(_speaks(bytes(content)))
        for at in self._others:
            for each in columns:
                _require(_is_flat(bytes(each[at])))
        said = list(map(row_key, roles, joined)), *self._ids(roles, contents, columns)
        marked = [
            (b"<" in text or (b"[" in text and b"INST]" in text)) and has_marker("\0".join(map(_decode_text, each)))
            for text, each in zip(joined, contents, strict=True)
        ]
        return PlainRows(roles, contents, columns, said, marked)

    def _written(
        self, block: bytes, roles: list[_Roles], contents: list[list[Any]], columns: list[tuple[Any, ...]]
    ) -> list[bytes] | None:
        """Return the lines that json.dumps writes for these rows when they are the block's, else None."""
        at = self._before
        values = [(*row[:at], *texts, *row[at:]) for row, texts in zip(columns, contents, strict=True)]
        for style in self._styles:
            lines = [style[speakers] % row for speakers, row in zip(roles, values, strict=True)]
            if b"\n".join(lines) == block.removesuffix(b"\n"):
                if style is not self._styles[0]:  # the file's own style is tried first from now on
                    self._styles = [style, *(other for other in self._styles if other is not style)]
                return lines
        return None

    def _ids(
        self, roles: list[_Roles], contents: list[list[Any]], columns: list[tuple[Any, ...]]
    ) -> tuple[list[int], list[int]]:
        """Return what stands for each row's prompt and prompt_id, when no rule objects to them."""
        prompts, ids = [], []
        for speakers, texts, values in zip(roles, contents, columns, strict=True):
            prompt, prompt_id = bytes(values[self._prompt]), bytes(values[self._prompt_id])
            if prompt:
                text = prompt[1:-1] if b"\\" not in prompt else _decode_text(prompt).encode()
                is_first = prompt == bytes(texts[speakers.index("user")])
                is_known = not prompt_id or prompt_id[1:-1] == hashlib.sha256(text).hexdigest().encode()
                _require(is_first and (is_known or _is_no_sha256(prompt_id)))
            prompts.append(text_digest(prompt) if prompt else NONE)
            ids.append(_id_digest(prompt_id))
        return prompts, ids


class _NotPlainError(Exception):
    """Some row is not proved plain."""


def _require(proved: bool) -> None:
    if not proved:
        raise _NotPlainError


class _Style(dict[_Roles, bytes]):
    """How json.dumps writes rows in some order of keys and with some separators: by roles, with %b for each value."""

    def __init__(self, names: Sequence[str], keys: Sequence[str], separators: tuple[str, str]) -> None:
        super().__init__()
        self._names, self._keys, self._separators = names, keys, separators

    def __missing__(self, roles: _Roles) -> bytes:
        messages = [{key: role if key == "role" else _HOLE for key in self._keys} for role in roles]
        row = {name: messages if name == "messages" else _HOLE for name in self._names}
        text = json.dumps(row, ensure_ascii=False, separators=self._separators)
        form = self[roles] = text.replace("%", "%%").replace(f'"{_HOLE}"', "%b").encode()
        return form


def _num_bare_quotes(line: bytes) -> int:
    r"""Count the quotes that no backslash escapes; in \\" the backslash is escaped itself."""
    rest = line.replace(b"\\\\", b"")
    return rest.count(b'"') - rest.count(b'\\"')


def _num_needed(contents: list[Any], columns: tuple[Any, ...]) -> int:
    """Count the quotes around keys and texts."""
    return 2 + 8 * len(contents) + sum(4 if value.startswith(b'"') else 2 for value in map(bytes, columns) if value)


def _is_flat(value: bytes) -> bool:
    """Tell whether a column's value is no list and no object; raise ValidationError for a number that is too large."""
    msgspec.json.decode(value or b"0")
    return not value.startswith((b"[", b"{"))


def _respelled(value: bytes | msgspec.Raw) -> bytes:
    text = bytes(value)
    return msgspec.json.encode(_decode_text(text)) if text.startswith(b'"') else text


def _speaks(content: bytes) -> bool:
    """Tell whether a message has a text, and not of blanks only."""
    return content.startswith(b'"') and INVISIBLE.fullmatch(_decode_text(content)) is None


def _is_no_sha256(prompt_id: bytes) -> bool:
    return prompt_id.startswith(b'"') and not is_sha256(_decode_text(prompt_id))


def _id_digest(prompt_id: bytes) -> int:
    if prompt_id.startswith(b'"'):
        return text_digest(prompt_id)
    _require(_is_flat(prompt_id) and prompt_id != b"null")
    return id_digest(msgspec.json.decode(prompt_id)) if prompt_id else NONE
