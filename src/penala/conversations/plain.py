"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say of a block.

Most rows of most files are plain: text, one JSON object, the usual roles in order. One typed decode and a handful of
tests of whole rows prove that. A row that is not proved plain is not bad: it takes the slow way, where decode.py,
schemas.py and rules.py look at each part of it. The two ways agree; a property test holds them to it.
"""

import json
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, Literal

import msgspec

from penala.conversations.rules import INVISIBLE, LONG_CHARACTERS, LONG_MESSAGES, has_marker, is_orderly, is_sha256
from penala.conversations.seen import NONE, id_digest, row_key, text_digest

UNSET = msgspec.UNSET
_CONTROL = re.compile(rb"\\(?:u00[017]|b)")  # after an escaped backslash it only looks like one
_VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
_FLAT = frozenset({str, int, float, bool, type(None), type(UNSET)})
_HOLE = "\ue000"
_NOT_PLAIN = ("tools", "functions")
_role_of, _content_of, _messages_of = attrgetter("role"), attrgetter("content"), attrgetter("messages")
_start_of = itemgetter(slice(1))
_encode = msgspec.json.Encoder().encode
_Roles = tuple[str, ...]


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class PlainRows(msgspec.Struct, gc=False):
    """Rows without a fault; each list has one item a row."""

    roles: list[_Roles]
    texts: list[list[str]]
    columns: list[tuple[Any, ...]]  # values of the reader's columns, UNSET where a row has none
    said: tuple[list[int], list[int], list[int]]  # see Said
    has_marker: list[bool]


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than prompt, prompt_id and `columns`."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        # decoders refuse odd names; a row with such a column, or with tools, is not plain
        names = [name for name in columns if name not in _NOT_PLAIN and name.isprintable() and not set(name) & {*'\\"'}]
        order = list(dict.fromkeys([*names, "prompt", "prompt_id", "messages"]))
        self._before = order.index("messages")  # so many columns stand before the messages
        self._columns = [name for name in order if name != "messages"]
        self._prompt, self._prompt_id = map(self._columns.index, ("prompt", "prompt_id"))
        # a column's name need not be a Python name, so the fields are numbered
        fields = {name: f"column_{i}" for i, name in enumerate(self._columns)}
        optional = [(at, Any, msgspec.field(default=UNSET, name=name)) for name, at in fields.items()]
        members: list[Any] = [("messages", list[_Message]), *optional]
        row_type = msgspec.defstruct("_Row", members, forbid_unknown_fields=True, gc=False)
        self._decoder: Any = msgspec.json.Decoder(row_type)
        self._columns_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*fields.values())
        self._styles = [
            _Style(order, keys, separators)
            for separators in ((", ", ": "), (",", ":"))
            for keys in (("role", "content"), ("content", "role"))
        ]

    def read_lines(self, block: bytes) -> PlainRows | None:
        """Return the rows of a block, one a line, when all are proved plain, else None: then each alone may be."""
        return self._proved(self._decoder.decode_lines, block, lambda: block.removesuffix(b"\n").split(b"\n"))

    def read(self, row: bytes) -> PlainRows | None:
        """Return one row when it is proved plain, else None."""
        return self._proved(lambda row: [self._decoder.decode(row)], row, lambda: [row])

    def column_values(self, columns: Sequence[Any]) -> dict[str, Any]:
        """Return the columns of a row by name, those that it has."""
        return {name: value for name, value in zip(self._columns, columns, strict=True) if value is not UNSET}

    def _proved(
        self, decode: Callable[[bytes], list[Any]], block: bytes, lines: Callable[[], list[bytes]]
    ) -> PlainRows | None:
        try:
            return self._prove(decode(block), block, lines)
        except (_NotPlainError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _prove(self, rows: list[Any], block: bytes, lines: Callable[[], list[bytes]]) -> PlainRows:
        """Raise _NotPlainError unless no rule has anything to say."""
        messages = list(map(_messages_of, rows))
        roles = [tuple(map(_role_of, each)) for each in messages]
        texts: list[list[str]] = [list(map(_content_of, each)) for each in messages]
        columns = list(map(self._columns_of, rows))
        contents = [list(map(_encode, each)) for each in texts]
        joined = list(map(b"".join, contents))
        _require(all(map(is_orderly, roles)) and max(map(len, roles), default=0) <= LONG_MESSAGES)
        _require(max(map(len, joined), default=0) < LONG_CHARACTERS)
        # JSON has no other control character than DEL unescaped
        _require(b"\x7f" not in block and _CONTROL.search(block) is None)
        if not _VISIBLE.issuperset(map(_start_of, chain.from_iterable(texts))):
            _require(not any(map(INVISIBLE.fullmatch, chain.from_iterable(texts))))
        _require(_FLAT.issuperset(map(type, chain.from_iterable(columns))))
        said = list(map(row_key, roles, joined)), *self._look_at_columns(roles, texts, columns)
        # of a key that stands twice decoders keep the last value. None does in what json.dumps writes, nor in a line
        # that has no more quotes than its values need
        if not self._is_written_so(block, roles, contents, columns):
            needed = map(_num_needed, contents, columns)
            _require(list(map(_num_bare_quotes, lines())) == list(needed))
        marked = [
            (b"<" in text or (b"[" in text and b"INST]" in text)) and has_marker("\0".join(each))
            for text, each in zip(joined, texts, strict=True)
        ]
        return PlainRows(roles, texts, columns, said, marked)

    def _look_at_columns(
        self, roles: list[_Roles], texts: list[list[str]], columns: list[tuple[Any, ...]]
    ) -> tuple[list[int], list[int]]:
        """Return what stands for each row's prompt and prompt_id, when no rule objects to them."""
        prompts, ids = [], []
        for speakers, each, values in zip(roles, texts, columns, strict=True):
            prompt, prompt_id = values[self._prompt], values[self._prompt_id]
            if prompt is not UNSET:
                _require(prompt == each[speakers.index("user")])
                if prompt_id is not UNSET and prompt_id != sha256(prompt.encode()).hexdigest():
                    _require(isinstance(prompt_id, str) and not is_sha256(prompt_id))
            _require(prompt_id is not None)
            prompts.append(NONE if prompt is UNSET else text_digest(prompt))
            ids.append(id_digest(prompt_id))
        return prompts, ids

    def _is_written_so(
        self, block: bytes, roles: list[_Roles], contents: list[list[bytes]], columns: list[tuple[Any, ...]]
    ) -> bool:
        """Tell whether the block is what json.dumps writes for these rows."""
        at = self._before
        if any(UNSET in each for each in columns):
            return False
        written = [list(map(_encode, each)) for each in columns]
        values = [(*row[:at], *each, *row[at:]) for row, each in zip(written, contents, strict=True)]
        expected = block.removesuffix(b"\n")
        for style in self._styles:
            if b"\n".join([style[speakers] % row for speakers, row in zip(roles, values, strict=True)]) == expected:
                if style is not self._styles[0]:  # the file's own style is tried first from now on
                    self._styles = [style, *(other for other in self._styles if other is not style)]
                return True
        return False


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


def _num_needed(contents: list[bytes], columns: tuple[Any, ...]) -> int:
    """Count the quotes around keys and texts."""
    return 2 + 8 * len(contents) + sum(4 if isinstance(value, str) else 2 for value in columns if value is not UNSET)
