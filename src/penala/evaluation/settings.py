"""What a recipe's `evaluation` may say.

replies: {max_new_tokens: 48, limit: 20}            # how long, and how many rows
contains: {expected: expected, unexpected: wrong}   # columns with the strings that a right reply holds, and holds not
groups: [group, later_turn]                         # columns to break the accuracy down by
forgetting: unrelated.jsonl                         # questions to ask before and after, answered side by side
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penala.errors import RecipeError, near

SHOWN = 5  # replies side by side, where nothing asks for more
MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Contains:
    """The columns that hold what a reply must contain and must not."""

    expected: str
    unexpected: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """The settings of one evaluation. `limit` is the number of rows that get replies; None: all of them."""

    max_new_tokens: int = MAX_NEW_TOKENS
    limit: int | None = SHOWN
    contains: Contains | None = None
    groups: tuple[str, ...] = ()
    forgetting: Path | None = None


def parse(given: Mapping[str, Any]) -> EvaluationSettings:
    """Read the settings; without `limit`, all rows get replies when they are judged, five when they are only shown.

    Raises RecipeError with the key for anything unknown or of another type.
    """
    _known(given, ("replies", "contains", "groups", "forgetting"), "evaluation")
    replies = _mapping(given.get("replies"), "evaluation.replies")
    _known(replies, ("max_new_tokens", "limit"), "evaluation.replies")
    contains = None
    if given.get("contains") is not None:
        columns = _mapping(given["contains"], "evaluation.contains")
        _known(columns, ("expected", "unexpected"), "evaluation.contains")
        if "expected" not in columns:
            raise RecipeError("names no column", where="evaluation.contains.expected", fix="add expected: COLUMN")
        contains = Contains(**{key: _text(value, f"evaluation.contains.{key}") for key, value in columns.items()})
    return EvaluationSettings(
        max_new_tokens=_or(MAX_NEW_TOKENS, _at_least(1), replies.get("max_new_tokens"), "replies.max_new_tokens"),
        limit=_or(SHOWN if contains is None else None, _at_least(0), replies.get("limit"), "replies.limit"),
        contains=contains,
        groups=_or((), _columns, given.get("groups"), "groups"),
        forgetting=_or(None, _path, given.get("forgetting"), "forgetting"),
    )


def _known(given: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in keys:
            raise RecipeError("unknown key", where=f"{where}.{key}", fix=near(key, keys) or f"known: {', '.join(keys)}")


def _or(default: Any, read: Callable[[Any, str], Any], value: Any, key: str) -> Any:
    return default if value is None else read(value, f"evaluation.{key}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        raise RecipeError(f"is {value!r}", where=where, fix="write keys and values below it")
    return value or {}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise RecipeError(f"is {value!r}", where=where, fix="name a column of the conversations")
    return value


def _at_least(lowest: int) -> Callable[[Any, str], int]:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise RecipeError(f"is {value!r}", where=where, fix=f"use a whole number from {lowest} up")
        return value

    return read


def _columns(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"is {value!r}", where=where, fix="use a list of columns, such as [group]")
    return tuple(_text(column, where) for column in value)


def _path(value: Any, where: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise RecipeError(f"is {value!r}", where=where, fix="name a file of conversations")
    return Path(value)
