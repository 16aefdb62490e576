import pytest

from penala.evaluation.answers import contains, is_right


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The satay costs RM 7.25.", "RM 7.25"),
        ("the SATAY costs rm 7.25", "RM 7.25"),
        ("RM\n  7.25, please", "RM 7.25"),
        ("We rest on the 19th.", "19"),
        ("at 9.40.", "9.40"),
        ("2, 3 or 4", "3"),
        ("Saderi dan tiram", "saderi"),
        ("GRÜSSE aus Straße", "strasse"),
    ],
)
def test_an_expected_string_is_found(reply, expected):
    """Whatever the letter case and the white space, beside punctuation and within words."""
    assert contains(reply, expected)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("RM 12.50", "2.50"),
        ("RM 2.505", "2.50"),
        ("2.50.7", "2.50"),
        ("at 7.30", "7"),
        ("at 6.7", "7"),
        ("1,200 cups", "200"),
        ("197", "19"),
        ("nothing", "tiram"),
        ("anything", ""),
    ],
)
def test_a_part_of_a_number_is_not_found(reply, expected):
    """A number counts whole or not at all, decimals and thousands included; the empty string is never found."""
    assert not contains(reply, expected)


def test_a_reply_is_right_with_every_expected_string_and_no_unexpected_one():
    """One missing, or one wrong price beside the right one, and it is wrong."""
    assert is_right("kopi RM 2.15, teh RM 1.85", ["2.15", "1.85"], ["3.95"])
    assert not is_right("kopi RM 2.15", ["2.15", "1.85"])
    assert not is_right("RM 2.15 or RM 3.95", ["2.15"], ["3.95"])
