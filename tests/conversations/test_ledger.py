"""Nothing is lost: rows and tokens in = trained + masked + cut + dropped + held out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penala.conversations.ledger import CLASSES, Ledger
from penala.errors import DataError


@st.composite
def counted_rows(draw):
    """Draw a row's class and token counts that fit it."""
    name = draw(st.sampled_from(CLASSES))
    supervised = draw(st.integers(1, 50)) if name in ("trained", "cut") else 0
    removed = draw(st.integers(1, 50)) if name == "cut" else 0
    other = draw(st.integers(0, 50))
    return name, supervised + removed + other, supervised, removed


@settings(deadline=None)
@given(st.lists(counted_rows()))
def test_the_classes_add_up_to_what_went_in(rows):
    """For any rows: each stands in one class, and so does each token."""
    ledger = Ledger(rows_in=len(rows))
    for name, tokens, supervised, removed in rows:
        ledger.add(name, tokens=tokens, supervised=supervised, removed=removed, reason=f"because {name}")
    ledger.check()
    book = ledger.as_dict()

    for counts in (book["rows"], book["tokens"]):
        assert counts["in"] == sum(counts[name] for name in CLASSES)
    assert book["tokens"]["in"] == sum(tokens for _, tokens, _, _ in rows)
    assert sum(one["rows"] for named in book["reasons"].values() for one in named.values()) == len(rows)


def test_the_book_says_where_tokens_went():
    """Supervised tokens are trained, removed ones cut, the rest of a kept row masked; other rows go as a whole."""
    ledger = Ledger(rows_in=5)
    ledger.add("trained", tokens=10, supervised=4)
    ledger.add("masked", tokens=7)
    ledger.add("cut", tokens=30, supervised=5, removed=20, reason="too_long")
    ledger.add("dropped", reason="broken_json")
    ledger.add("held_out", tokens=8, reason="validation")

    assert ledger.as_dict() == {
        "rows": {"in": 5, "trained": 1, "masked": 1, "cut": 1, "dropped": 1, "held_out": 1},
        "tokens": {"in": 55, "trained": 9, "masked": 18, "cut": 20, "dropped": 0, "held_out": 8},
        "reasons": {
            "cut": {"too_long": {"rows": 1, "tokens": 20}},
            "dropped": {"broken_json": {"rows": 1, "tokens": 0}},
            "held_out": {"validation": {"rows": 1, "tokens": 8}},
        },
    }


def test_a_lost_row_is_found():
    """When fewer or more rows are accounted for than went in, the check raises with the counts."""
    ledger = Ledger(rows_in=3)
    ledger.add("trained", rows=2, tokens=9, supervised=2)

    with pytest.raises(DataError, match=r"3 rows went in, 2 are accounted for \(2 trained, 0 masked"):
        ledger.check()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("thrown away", {}),
        ("trained", {"tokens": 5}),
        ("masked", {"tokens": 5, "supervised": 1}),
        ("dropped", {"tokens": 5, "supervised": 1}),
        ("held_out", {"tokens": 5, "removed": 1}),
        ("cut", {"tokens": 5, "supervised": 3, "removed": 3}),
        ("trained", {"rows": -1}),
    ],
)
def test_counts_that_contradict_their_class_are_refused(name, counts):
    """A class that is not one, or counts that cannot be its, raise ValueError and change nothing."""
    ledger = Ledger(rows_in=0)
    with pytest.raises(ValueError, match=name if name == "thrown away" else "tokens"):
        ledger.add(name, **counts)

    ledger.check()
