"""The fast way through a file of good rows: prove in a few operations that no rule has anything to say of a block.

Most rows of most files are plain: text, one JSON object, the usual roles in order. One typed decode and a handful of
tests of whole blocks prove that. A row that is not proved plain is not bad: it takes the slow way, where decode.py,
schemas.py and rules.py look at each part of it. The two ways agree; a property test holds them to it.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import chain, compress, count, repeat
from operator import attrgetter, contains, getitem, itemgetter, or_
from typing import Any, Literal

import msgspec

from penala.conversations.measured import Measure
from penala.conversations.rules import INVISIBLE, LONG_CHARACTERS, LONG_MESSAGES, has_marker, is_orderly, is_sha256
from penala.conversations.seen import NONE, digest, id_digest, spoken

UNSET = msgspec.UNSET
_FLAT = frozenset({str, int, float, bool, type(None), type(UNSET)})
_NOT_PLAIN = ("tools", "functions")
_role_of, _content_of, _messages_of = attrgetter("role"), attrgetter("content"), attrgetter("messages")
_start_of = itemgetter(slice(1))
_ANGLE, _SQUARE = b"<["
_Roles = tuple[str, ...]


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class PlainRows(msgspec.Struct, gc=False):
    """Rows without a fault; each list but the last has one item a row."""

    messages: list[list[_Message]]
    columns: list[tuple[Any, ...]]  # values of the reader's columns, UNSET where a row has none
    said: tuple[list[int], list[int], list[int]]  # see Said
    marked: list[int]  # the rows, from 0, that hold a marker


class PlainReader:
    """Reads rows of the schema `messages` that have no other columns than prompt, prompt_id and `columns`."""

    def __init__(self, columns: Sequence[str] = (), file_bytes: int = 0) -> None:
        # decoders refuse odd names; a row with such a column, or with tools, is not plain
        names = [name for name in columns if name not in _NOT_PLAIN and name.isprintable() and not set(name) & {*'\\"'}]
        self._columns = list(dict.fromkeys([*(name for name in names if name != "messages"), "prompt", "prompt_id"]))
        self._prompt, self._prompt_id = map(self._columns.index, ("prompt", "prompt_id"))
        # a column's name need not be a Python name, so the fields are numbered
        fields = {name: f"column_{i}" for i, name in enumerate(self._columns)}
        optional = [(at, Any, msgspec.field(default=UNSET, name=name)) for name, at in fields.items()]
        members: list[Any] = [("messages", list[_Message]), *optional]
        row_type = msgspec.defstruct("_Row", members, forbid_unknown_fields=True, gc=False)
        self._decoder: Any = msgspec.json.Decoder(row_type)
        self._columns_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*fields.values())
        self._measure = Measure(file_bytes)

    def read_lines(self, block: bytes) -> PlainRows | None:
        """Return the rows of a block, one a line, when all are proved plain, else None: then each alone may be."""
        return self._proved(self._decoder.decode_lines, block, lines=True)

    def read(self, row: bytes) -> PlainRows | None:
        """Return one row when it is proved plain, else None."""
        return self._proved(lambda row: [self._decoder.decode(row)], row, lines=False)

    def column_values(self, columns: Sequence[Any]) -> dict[str, Any]:
        """Return the columns of a row by name, those that it has."""
        return {name: value for name, value in zip(self._columns, columns, strict=True) if value is not UNSET}

    def _proved(self, decode: Callable[[bytes], list[Any]], block: bytes, *, lines: bool) -> PlainRows | None:
        try:
            return self._prove(decode(block), block, lines=lines)
        except (_NotPlainError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _prove(self, rows: list[Any], block: bytes, *, lines: bool) -> PlainRows:
        """Raise _NotPlainError unless no rule has anything to say."""
        _require(bool(rows))
        messages = list(map(_messages_of, rows))
        roles = [tuple(map(_role_of, each)) for each in messages]
        orders = {*roles}  # there are few
        texts: list[str] = list(map(_content_of, chain.from_iterable(messages)))
        columns = list(map(self._columns_of, rows))
        said = list(map(spoken, messages))
        _require(all(map(is_orderly, orders)) and max(map(len, orders)) <= LONG_MESSAGES)
        _require(max(map(len, said)) < LONG_CHARACTERS)  # no fewer bytes than characters
        starts = "".join(map(_start_of, texts))
        if len(starts) < len(texts) or not starts.isascii() or " " in starts or not starts.isprintable():
            _require(not any(map(INVISIBLE.fullmatch, texts)))
        types = list(map(type, chain.from_iterable(columns)))
        _require(_FLAT.issuperset(types))
        measured = self._measure.of(block)
        _require(not measured.has_control and (measured.num_lines == len(rows) or not lines))
        # decoders keep the last value of a key that stands twice; then there are more quotes than values need
        num_columns, num_texts = len(types) - types.count(type(UNSET)), types.count(str)
        _require(measured.num_quotes == 2 * len(rows) + 8 * len(texts) + 2 * (num_columns + num_texts))
        first_user = {order: order.index("user") for order in orders}
        questions = map(_content_of, map(getitem, messages, map(first_user.__getitem__, roles)))
        prompts, ids = self._look_at_columns(columns, questions)
        # most rows have no byte that a marker begins with
        may_have = map(or_, map(contains, said, repeat(_ANGLE)), map(contains, said, repeat(_SQUARE)))
        marked = [n for n in compress(count(), may_have) if any(map(has_marker, map(_content_of, messages[n])))]
        return PlainRows(messages, columns, (list(map(digest, said)), prompts, ids), marked)

    def _look_at_columns(self, columns: list[tuple[Any, ...]], questions: Iterable[str]) -> tuple[list[int], list[int]]:
        """Return what stands for each row's prompt and prompt_id, when no rule objects to them.

        Either every row has a prompt, its first question, or none has.
        """
        prompts, ids = [list(map(itemgetter(at), columns)) for at in (self._prompt, self._prompt_id)]
        id_types = {*map(type, ids)}
        _require(type(None) not in id_types)
        id_digests = list(map(digest, map(str.encode, ids)) if id_types == {str} else map(id_digest, ids))
        if {*map(type, prompts)} == {type(UNSET)}:
            return [NONE] * len(prompts), id_digests
        _require(prompts == list(questions))
        data = list(map(str.encode, prompts))
        if ids != [sha256(prompt).hexdigest() for prompt in data]:
            _require(all(map(_is_id_of, ids, data)))
        return list(map(digest, data)), id_digests


def _is_id_of(prompt_id: Any, prompt: bytes) -> bool:
    """Tell whether no rule objects to an id: it may be anybody's, unless it looks like the digest of another prompt."""
    if prompt_id is UNSET or prompt_id == sha256(prompt).hexdigest():
        return True
    return isinstance(prompt_id, str) and not is_sha256(prompt_id)


class _NotPlainError(Exception):
    """Some row is not proved plain."""


def _require(proved: bool) -> None:
    if not proved:
        raise _NotPlainError
