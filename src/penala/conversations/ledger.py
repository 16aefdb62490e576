"""Where every row of train went: counted once, in one class, in rows and in tokens, with the reasons beside it."""

from collections import Counter
from typing import Any, Literal

from penala.errors import DataError

Class = Literal["trained", "masked", "cut", "dropped", "held_out"]
CLASSES: tuple[Class, ...] = ("trained", "masked", "cut", "dropped", "held_out")


class Ledger:
    """Counts rows and tokens: in = trained + masked + cut + dropped + held_out, for both.

    A row is in one class: trained (whole), masked (kept, but no token is supervised), cut (trained on a shortened row),
    dropped, held_out (for validation or test). Its tokens are counted one by one: of a row that is kept, the
    supervised ones are trained, the removed ones cut, the rest masked; of any other row all are dropped or held out.

    >>> ledger = Ledger(rows_in=2)
    >>> ledger.add("trained", tokens=12, supervised=5)
    >>> ledger.add("dropped", tokens=90, reason="too_long")
    >>> ledger.check()
    >>> ledger.as_dict()["rows"]
    {'in': 2, 'trained': 1, 'masked': 0, 'cut': 0, 'dropped': 1, 'held_out': 0}
    """

    def __init__(self, rows_in: int) -> None:
        self.rows_in = rows_in  # counted by whoever read the file, so that a lost row shows
        self._tokens_in = 0
        self._rows: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._reasons: dict[tuple[str, str], list[int]] = {}

    def add(
        self,
        name: Class,
        *,
        rows: int = 1,
        tokens: int = 0,
        supervised: int = 0,
        removed: int = 0,
        reason: str | None = None,
    ) -> None:
        """Count rows of one class; `tokens` are all theirs, before anything was removed.

        Raises ValueError for a class that is not one, and for counts that contradict it.
        """
        if name not in CLASSES:
            raise ValueError(f"{name!r} is none of {', '.join(CLASSES)}")
        if min(rows, supervised, removed, tokens - supervised - removed) < 0:
            raise ValueError(f"{tokens} tokens cannot hold {supervised} supervised and {removed} removed ones")
        if (supervised > 0) != (name in ("trained", "cut")) and rows:
            raise ValueError(f"{name} rows with {supervised} supervised tokens")
        if removed and name not in ("cut", "masked"):
            raise ValueError(f"{name} rows with {removed} removed tokens")
        self._rows[name] += rows
        self._tokens_in += tokens
        if name in ("dropped", "held_out"):
            self._tokens[name] += tokens
        else:
            self._tokens.update(trained=supervised, cut=removed, masked=tokens - supervised - removed)
        if reason is not None:
            counted = self._reasons.setdefault((name, reason), [0, 0])
            counted[0] += rows
            counted[1] += removed or tokens

    def check(self) -> None:
        """Raise DataError unless every row is in exactly one class."""
        counted = sum(self._rows.values())
        if counted != self.rows_in:
            parts = ", ".join(f"{self._rows[name]} {name}" for name in CLASSES)
            raise DataError(
                f"{self.rows_in} rows went in, {counted} are accounted for ({parts})",
                where="ledger",
                fix="this is a mistake of penala: report it with the recipe",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return {"rows": {"in", ...}, "tokens": {"in", ...}, "reasons": {class: {reason: {"rows", "tokens"}}}}.

        The tokens beside a reason are those that it took away: removed ones of a cut row, all of any other.
        """
        reasons: dict[str, dict[str, dict[str, int]]] = {}
        for (name, reason), (rows, tokens) in sorted(self._reasons.items()):
            reasons.setdefault(name, {})[reason] = {"rows": rows, "tokens": tokens}
        return {
            "rows": {"in": self.rows_in, **{name: self._rows[name] for name in CLASSES}},
            "tokens": {"in": self._tokens_in, **{name: self._tokens[name] for name in CLASSES}},
            "reasons": reasons,
        }
