"""Rows told at the end what they repeat are told the same as rows that are looked at as they come."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penala.conversations import seen
from penala.conversations.seen import NONE, Seen

DIGESTS = st.one_of(st.integers(1, 3), st.integers(1, 2**64 - 1))
ROWS = st.lists(st.tuples(DIGESTS, st.just(NONE) | DIGESTS, st.just(NONE) | DIGESTS), max_size=4)


@pytest.mark.parametrize("has_numpy", [True, False])
def test_rows_are_told_at_the_end_what_each_is_told_as_it_comes(has_numpy, monkeypatch):
    """Repeated rows, prompts and ids, within a file, from file to file and from split to split; numpy counts alike."""
    monkeypatch.setattr(seen, "VECTOR_ROWS", 0 if has_numpy else 100)
    if not has_numpy:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)

    @given(st.lists(ROWS, max_size=4))
    def told_alike(files):
        together, alone = Seen(), Seen()
        told = []
        for number, rows in enumerate(files):
            together.begin(number // 2, f"{number}.jsonl")
            alone.begin(number // 2, f"{number}.jsonl")
            lines = range(7, 7 + len(rows))
            together.take(list(zip(*rows, strict=True)) or [[], [], []], lines)
            for row, (line, said) in enumerate(zip(lines, rows, strict=True)):
                told += [(number, row, line, fault) for fault in alone.look(said, line)]
        assert list(together.repeats()) == told

    told_alike()
