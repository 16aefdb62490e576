from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penala.conversations.histogram import WIDTH, bins, drawing, percentiles

LENGTHS = st.lists(st.integers(0, 2_000_000), min_size=1, max_size=60).map(sorted)


@given(LENGTHS)
def test_every_row_lies_in_one_bin(lengths):
    """The bins join without a gap and hold every row once."""
    found = bins(array("q", lengths))

    assert sum(bin_["rows"] for bin_ in found) == len(lengths)
    assert all(one["to"] + 1 == next_["from"] for one, next_ in pairwise(found))
    for bin_ in found[1:]:
        assert bin_["rows"] == sum(bin_["from"] <= length <= bin_["to"] for length in lengths)


@given(LENGTHS, st.integers(1, 200_000))
def test_everything_is_drawn_inside_the_picture_and_no_label_covers_another(lengths, limit):
    """Bars, ticks and marks lie within the width; labels of one line do not overlap."""
    marks = percentiles(lengths) | {"the model takes": limit}

    picture = drawing(bins(lengths), marks)

    assert all(bar["x"] >= 0 and bar["x"] + bar["width"] <= WIDTH for bar in picture["bars"])
    assert all(0 <= tick["x"] <= WIDTH for tick in picture["ticks"])
    spans = {}
    for mark in picture["marks"]:
        width = 8 * len(mark["text"])
        left = mark["x"] - width if mark["is_left"] else mark["x"]
        spans.setdefault(mark["y"], []).append((left, left + width))
    assert all(one[1] <= next_[0] for line in spans.values() for one, next_ in pairwise(sorted(line)))


def test_percentiles_are_lengths_that_rows_have():
    """Half of the rows are no longer than p50, and so on; of no rows all are 0."""
    assert percentiles(range(1, 101)) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert percentiles([7]) == {"p50": 7, "p90": 7, "p99": 7, "max": 7}
    assert percentiles([]) == {"p50": 0, "p90": 0, "p99": 0, "max": 0}


@pytest.mark.parametrize("lengths", [[0], [1], [5, 5, 5]])
def test_rows_of_one_length_are_one_bar(lengths):
    """A data set without spread has a picture too."""
    picture = drawing(bins(lengths), percentiles(lengths))

    assert [bar["rows"] for bar in picture["bars"]] == [len(lengths)]
