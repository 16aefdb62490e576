"""What the models are asked: the rows that end in an assistant's turn, without that turn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from penala.conversations.conversation import Conversation, Message
from penala.errors import DataError, near
from penala.evaluation.settings import EvaluationSettings

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, the reply that the data gives (`reference`), and what a right reply holds (None: it is not judged)."""

    row: int
    messages: tuple[Message, ...]
    tools: tuple[Any, ...] | None
    reference: str | None
    expected: tuple[str, ...] | None
    unexpected: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def text(self) -> str:
        """The last thing said before the reply."""
        return self.messages[-1].content


def questions(conversations: Sequence[Conversation], settings: EvaluationSettings) -> list[Question]:
    """Return one question for each row that ends in an assistant's turn, at most `settings.limit`, evenly spread.

    Raises DataError for a column that no row has, or one that holds something else than strings.
    """
    _columns_exist(conversations, settings)
    found = [
        _question(conversation, settings, with_reference=True)
        for conversation in conversations
        if len(conversation.messages) > 1 and conversation.messages[-1].role == "assistant"
    ]
    return evenly(found, settings.limit)


def unjudged(conversations: Iterable[Conversation]) -> list[Question]:
    """Return one question for each row, which may end in the user's turn: replies are shown, not judged."""
    shown = EvaluationSettings()
    return [
        _question(conversation, shown, with_reference=conversation.messages[-1].role == "assistant")
        for conversation in conversations
    ]


def evenly(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return `limit` of the items, evenly spread from the first on; all of them when there are no more, or for None."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]


def _question(conversation: Conversation, settings: EvaluationSettings, *, with_reference: bool) -> Question:
    expected: tuple[str, ...] | None = None
    unexpected: tuple[str, ...] = ()
    if (columns := settings.contains) is not None:
        expected = _strings(conversation, columns.expected)
        unexpected = _strings(conversation, columns.unexpected) or () if columns.unexpected else ()
    return Question(
        row=conversation.row,
        messages=conversation.messages[:-1] if with_reference else conversation.messages,
        tools=conversation.tools,
        reference=conversation.messages[-1].content if with_reference else None,
        expected=expected,
        unexpected=unexpected,
        groups=tuple(
            name for column in settings.groups if (name := group_name(column, conversation.columns.get(column)))
        ),
    )


def group_name(column: str, value: Any) -> str | None:
    """Return the group that a row is in: a text names it, true is the column's own name, false and null are none."""
    if value is None or value is False or value == "":
        return None
    if value is True:
        return column.replace("_", " ")
    return value if isinstance(value, str) else f"{column} {value}"


def _strings(conversation: Conversation, column: str) -> tuple[str, ...] | None:
    value = conversation.columns.get(column)
    if value is None:
        return None
    strings = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else None
    if strings is None or not all(isinstance(string, str) for string in strings):
        where = f"{conversation.file}:{conversation.line}: {column}"
        raise DataError(f"is {value!r}", where=where, fix="use a string or a list of strings")
    return strings


def _columns_exist(conversations: Sequence[Conversation], settings: EvaluationSettings) -> None:
    known = sorted({column for conversation in conversations for column in conversation.columns})
    named = {f"evaluation.groups: {column}": column for column in settings.groups}
    if settings.contains is not None:
        named["evaluation.contains.expected"] = settings.contains.expected
        if settings.contains.unexpected is not None:
            named["evaluation.contains.unexpected"] = settings.contains.unexpected
    for where, column in named.items():
        if conversations and column not in known:
            fix = near(column, known) or f"their columns: {', '.join(known) or 'none but messages'}"
            raise DataError(f"no row that is evaluated has a column {column!r}", where=where, fix=fix)
