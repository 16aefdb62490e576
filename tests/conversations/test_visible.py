import pytest

from penala.conversations.visible import excerpt, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("half \ud83d", r"half \ud83d"),
        ("carriage\rreturn", r"carriage\rreturn"),
        ("tag\U000e0041", r"tag\U000e0041"),
    ],
)
def test_what_a_terminal_obeys_or_a_reader_misses_is_spelled_out(text, shown):
    """Control characters, marks of direction, invisible ones and halves of characters are written as Python does."""
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["two\nlines\tand a tab", "teh tarik 🧋", "👩‍👩‍👧", "क्‍ष", "日本語 ไทย عربي", "a\u00a0b"]
)
def test_what_people_write_stays_as_it_is(text):
    """Line feeds, tabs, joiners, emoji and every script are left alone."""
    assert visible(text) == text


def test_an_excerpt_is_one_line_of_the_asked_width():
    """White space is one space, and what is left out is shown by dots."""
    assert excerpt("a\n\n b\t c", 10) == "a b c"
    assert excerpt("word " * 100, 20) == "word word word wo..."
    assert excerpt("\x1b" * 50, 20) == r"\x1b\x1b\x1b\x1b\..."
    assert len(excerpt("x" + " " * 100 + "y", 20)) <= 20
