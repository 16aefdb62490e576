import pytest

from penala.conversations.conversation import Conversation, Message
from penala.errors import DataError
from penala.evaluation.questions import evenly, questions, unjudged
from penala.evaluation.settings import parse


def row(*texts, **columns):
    """A conversation in which user and assistant take turns."""
    messages = tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts))
    return Conversation(messages, columns=columns, file="test.jsonl", line=1, row=1)


def ask(*rows, **settings):
    return questions(rows, parse(settings))


def test_the_last_turn_is_the_reference_and_the_rest_is_asked():
    """What the assistant said before stays in the prompt."""
    (question,) = ask(row("a", "b", "c", "d"))

    assert [message.content for message in question.messages] == ["a", "b", "c"]
    assert (question.text, question.reference, question.expected) == ("c", "d", None)


def test_rows_that_end_in_a_users_turn_are_not_asked():
    """They have no reference; nor has a lone assistant's turn a prompt."""
    alone = Conversation((Message("assistant", "hi"),))

    assert ask(row("a"), row("a", "b", "c"), alone) == []


def test_unrelated_questions_may_end_in_either_turn():
    """The reference, where there is one, is not sent."""
    texts = [(question.text, question.reference) for question in unjudged([row("a"), row("a", "b")])]

    assert texts == [("a", None), ("a", "b")]


def test_a_limit_is_spread_over_the_rows():
    """The first row is always asked, and the last part of the file is not left out."""
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly(range(3), 5) == evenly(range(3), None) == [0, 1, 2]
    assert evenly(range(3), 0) == []
    assert len(ask(*(row("a", str(n)) for n in range(100)))) == 5


def test_expected_strings_come_from_the_columns():
    """A string is a list of one; a row without the column is asked, not judged."""
    contains = {"expected": "e", "unexpected": "u"}
    one, many, none = ask(row("a", "b", e="x", u=["y"]), row("a", "b", e=["x", "z"]), row("a", "b"), contains=contains)

    assert (one.expected, one.unexpected) == (("x",), ("y",))
    assert (many.expected, many.unexpected) == (("x", "z"), ())
    assert none.expected is None


def test_groups_are_named_by_text_by_a_true_column_or_by_a_number():
    """False and null name none."""
    groups = ["language", "later_turn", "shelf"]
    rows = row("a", "b", language="Malay", later_turn=True, shelf=3), row("a", "b", later_turn=False)
    first, second = ask(*rows, groups=groups)

    assert first.groups == ("Malay", "later turn", "shelf 3")
    assert second.groups == ()


def test_a_column_that_no_row_has_is_refused_with_the_near_one():
    """Before any model is loaded."""
    with pytest.raises(DataError, match=r"contains\.expected: no row .* a column 'expect'; did you mean 'expected'"):
        ask(row("a", "b", expected="x"), contains={"expected": "expect"})
    with pytest.raises(DataError, match=r"evaluation\.groups: lang: no row .* none but messages"):
        ask(row("a", "b"), groups=["lang"])


def test_an_expected_value_that_is_no_text_is_refused_with_its_line():
    """The row is named."""
    with pytest.raises(DataError, match=r"test\.jsonl:1: e: is 7; use a string"):
        ask(row("a", "b", e=7), contains={"expected": "e"})
