"""Cut rows for validation and test off the end of train, as Azure's chat-completion fine-tuning does (contract §1.5).

| validation | test  | what happens                                                 |
| ---        | ---   | ---                                                          |
| unset      | unset | train keeps 80 %, the next 10 % validate, the last 10 % test |
| unset      | said  | train keeps 80 %, the last 20 % validate                     |
| said       | unset | train keeps 80 %, the last 20 % test                         |
| said       | said  | nothing is cut but what a share asks for                     |

"Said" is rows of their own, a share of train such as "10%", or "none": no such split, and no cut for it. A share takes
its rows from what train would keep. Rows stay in file order, head to tail: no shuffle.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from penala.conversations.check import MINIMUM_ROWS, Check
from penala.conversations.conversation import Conversation
from penala.conversations.streamed import StreamedRows
from penala.errors import DataError, UsageError

Rows = list[Conversation] | StreamedRows
Spec = list[Conversation] | Check | str | None
HELD_OUT = ("validation", "test")
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_HINT = "add rows, or say `none` for validation or test"


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows of each split in file order; `held_out` names the splits that were cut off train."""

    train: Rows
    validation: Rows
    test: Rows
    held_out: frozenset[str]
    rows_in: int  # every row of the train file, as the ledger counts them: kept, held out and bad
    note: str  # what was cut, in words
    bad_rows: Mapping[str, int] = field(default_factory=dict)  # rows of train that are bad, by code


def split(
    train: list[Conversation] | Check, validation: Spec = None, test: Spec = None, *, minimum_rows: int = MINIMUM_ROWS
) -> Splits:
    """Return the three splits, cut by the rules above.

    A spec is rows (or the Check that counted them: its rows are read when they are looked at), a share of train such as
    "10%", "none", or None for unset. Raises UsageError for anything else, DataError when a split would be empty or
    train would keep fewer than `minimum_rows`.
    """
    rows = _rows(train)
    shares = _shares(validation, test)
    validation_at = _round_share(len(rows), 100 - sum(shares))
    test_at = _round_share(len(rows), 100 - shares[1])
    kept = rows[:validation_at]
    if len(kept) < minimum_rows:
        what = f"{len(kept)} of {len(rows)} rows are left to train on, fewer than {minimum_rows}"
        raise DataError(what, fix=_HINT if any(shares) else "add rows")
    parts = (
        _part("validation", validation, shares[0], rows[validation_at:test_at]),
        _part("test", test, shares[1], rows[test_at:]),
    )
    note = "; ".join(
        [
            f"train: {_range(0, validation_at)} of {len(rows)}",
            _note("validation", shares[0], validation_at, parts[0]),
            _note("test", shares[1], test_at, parts[1]),
            *_leaks(kept, *parts),
        ]
    )
    held_out = frozenset(name for name, share in zip(HELD_OUT, shares, strict=True) if share)
    bad_rows = train.bad_rows if isinstance(train, Check) else {}
    return Splits(kept, *parts, held_out, len(rows) + sum(bad_rows.values()), note, bad_rows)


def share_of(spec: Spec) -> float | None:
    """Return the percentage of train that a spec asks for: 0 for "none" and for rows of its own, None for unset."""
    if spec is None or not isinstance(spec, str):
        return None if spec is None else 0.0
    if spec.strip().lower() == "none":
        return 0.0
    share = _SHARE.fullmatch(spec)
    if share is None or not 0 < float(share[1]) < 100:
        raise UsageError(f"'{spec}' is neither a share of train nor none", fix="write 10%, or none, or give a file")
    return float(share[1])


def _shares(validation: Spec, test: Spec) -> tuple[float, float]:
    for_validation, for_test = share_of(validation), share_of(test)
    if for_validation is None and for_test is None:
        return 10.0, 10.0
    shares = (20.0 if for_validation is None else for_validation, 20.0 if for_test is None else for_test)
    if sum(shares) >= 100:
        raise UsageError(f"{shares[0]:g} % and {shares[1]:g} % leave nothing to train on", fix="use smaller shares")
    return shares


def _round_share(count: int, percent: float) -> int:
    return int(count * percent / 100 + 0.5)


def _rows(rows: list[Conversation] | Check) -> Rows:
    return StreamedRows(rows) if isinstance(rows, Check) else rows


def _part(name: Literal["validation", "test"], spec: Spec, share: float, cut: Rows) -> Rows:
    if share and not cut:
        raise DataError(f"{share:g} % of train is less than one row for {name}", fix=_HINT)
    if share or spec is None or isinstance(spec, str):
        return cut
    if not (rows := _rows(spec)):
        raise DataError(f"{name} has no good row", fix=f"add rows, or say `{name}: none`")
    return rows


def _note(name: str, share: float, start: int, rows: Rows) -> str:
    if share:
        return f"{name}: {_range(start, start + len(rows))}, cut off train ({share:g} %)"
    return f"{name}: {len(rows)} rows of its own" if rows else f"no {name}"


def _range(start: int, end: int) -> str:
    return f"rows {start + 1}-{end} ({end - start})"


def _leaks(kept: Rows, validation: Rows, test: Rows) -> list[str]:
    known = set(_keys(kept))
    counts = [sum(key in known for key in _keys(part)) for part in (validation, test)]
    names = [f"{count} rows of {name}" for name, count in zip(HELD_OUT, counts, strict=True) if count]
    return [f"{' and '.join(names)} stand in train too"] if names else []


def _keys(rows: Rows) -> Iterable[object]:
    return rows.keys if isinstance(rows, StreamedRows) else (conversation.messages for conversation in rows)
