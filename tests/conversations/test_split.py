"""Which rows train, validate and test."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penala.conversations.check import check
from penala.conversations.conversation import Conversation, Message
from penala.conversations.split import split
from penala.errors import DataError, UsageError


def made(count, start=0):
    return [Conversation((Message("user", str(i)), Message("assistant", "ok"))) for i in range(start, start + count)]


OWN = made(3, start=1000)
CASES = [
    # validation, test, rows of train: kept, validation, test
    (None, None, 100, (80, 10, 10)),
    (None, OWN, 100, (80, 20, 3)),
    (None, "none", 100, (80, 20, 0)),
    (OWN, None, 100, (80, 3, 20)),
    ("none", None, 100, (80, 0, 20)),
    (OWN, OWN, 100, (100, 3, 3)),
    ("none", "none", 100, (100, 0, 0)),
    ("10%", "none", 100, (90, 10, 0)),
    ("10%", OWN, 100, (90, 10, 3)),
    ("10%", None, 100, (70, 10, 20)),
    (None, "5 %", 100, (75, 20, 5)),
    ("12.5%", "12.5%", 80, (60, 10, 10)),
    (None, None, 248, (198, 25, 25)),
    (None, None, 13, (10, 2, 1)),
]


@pytest.mark.parametrize(("validation", "test", "count", "expected"), CASES)
def test_the_cut_is_that_of_the_contract(validation, test, count, expected):
    """Train keeps the head, test gets the tail, and what has rows of its own gets those."""
    rows = made(count)
    splits = split(rows, validation, test)

    assert (len(splits.train), len(splits.validation), len(splits.test)) == expected
    cut = [row for name in ("validation", "test") if name in splits.held_out for row in getattr(splits, name)]
    assert splits.train + cut == rows
    assert splits.rows_in == count


@settings(deadline=None)
@given(
    st.integers(13, 300), st.sampled_from([None, "none", "10%", "33.3%"]), st.sampled_from([None, "none", "1%", "20%"])
)
def test_no_row_is_lost_or_doubled(count, validation, test):
    """Whatever is cut, the parts laid end to end are the rows of train; else the cut is refused."""
    rows = made(count)
    try:
        splits = split(rows, validation, test)
    except DataError:
        return

    assert splits.train + splits.validation + splits.test == rows
    assert len(splits.train) >= 10


def test_the_note_says_what_was_cut():
    """The sentence names the rows of every split, and rows that train and a held-out split share."""
    assert split(made(100)).note == (
        "train: rows 1-80 (80) of 100; validation: rows 81-90 (10), cut off train (10 %); "
        "test: rows 91-100 (10), cut off train (10 %)"
    )
    assert split(made(20), OWN, "none").note == "train: rows 1-20 (20) of 20; validation: 3 rows of its own; no test"
    assert split(made(50) * 2).note.endswith("; 10 rows of validation and 10 rows of test stand in train too")
    assert split(made(20), made(3), "none").note.endswith("; no test; 3 rows of validation stand in train too")


def test_a_check_may_stand_for_its_rows(write, rows):
    """Bad rows of train are counted by code, so that the ledger can account for them."""
    checked = check(write("a.jsonl", [*rows(20), {}, {"text": "x"}]))
    splits = split(checked, checked, "none")

    assert splits.bad_rows == {"empty_object": 1, "text": 1}
    assert (splits.rows_in, len(splits.train), len(splits.validation)) == (22, 20, 20)


def test_rows_that_are_read_when_they_are_looked_at_are_the_same(write, rows):
    """A check, which keeps nothing, gives the splits that its rows give, its note too; each may be read twice."""
    path = write("a.jsonl", [*rows(40), {}, *rows(4)])
    checked = check(path)
    expected, splits = split(list(checked.rows_again())), split(checked)

    assert (len(splits.train), len(splits.validation), len(splits.test)) == (35, 5, 4)
    assert splits.note == expected.note
    assert splits.note.endswith("; 4 rows of test stand in train too")
    for name in ("train", "validation", "test", "test"):
        assert list(getattr(splits, name)) == getattr(expected, name)


def test_a_file_that_changes_while_it_is_read_is_an_error(write, rows):
    """Rows would be lost, or move from one split to another, without a word."""
    splits = split(check(write("a.jsonl", rows(21)[:20])), "none", "none")
    write("a.jsonl", rows(15))
    with pytest.raises(DataError, match="has fewer good rows than when it was checked; let nothing write to the file"):
        list(splits.train)

    write("a.jsonl", rows(21)[1:])
    with pytest.raises(DataError, match=r"a\.jsonl:1: holds another row than when it was checked"):
        list(splits.train)


@pytest.mark.parametrize(
    ("count", "validation", "test", "message"),
    [
        (12, None, OWN, None),
        (11, None, None, "9 of 11 rows are left to train on, fewer than 10; add rows, or say `none`"),
        (9, "none", "none", "9 of 9 rows are left to train on, fewer than 10; add rows$"),
        (20, "1%", "none", "1 % of train is less than one row for validation"),
        (20, [], "none", "validation has no good row"),
    ],
)
def test_too_few_rows_are_refused(count, validation, test, message):
    """A split that would be empty, or a train below ten rows, is an error that says how to go on."""
    if message is None:
        assert len(split(made(count), validation, test).train) == 10
        return
    with pytest.raises(DataError, match=message):
        split(made(count), validation, test)


@pytest.mark.parametrize("spec", ["0%", "100%", "half", "", "50", "-5%"])
def test_what_is_no_share_is_refused(spec):
    """Only a percentage between 0 and 100, or none, is a spec in words."""
    with pytest.raises(UsageError, match="neither a share of train nor none"):
        split(made(100), spec)


def test_shares_that_leave_nothing_are_refused():
    """Shares of validation and test together stay below all of train."""
    with pytest.raises(UsageError, match="60 % and 40 % leave nothing to train on"):
        split(made(100), "60%", "40%")
