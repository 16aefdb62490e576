from pathlib import Path

import pytest

from penala.errors import RecipeError
from penala.evaluation.settings import MAX_NEW_TOKENS, SHOWN, Contains, EvaluationSettings, parse


def test_nothing_said_means_loss_and_a_few_replies():
    """Five rows get replies, none is judged, nothing unrelated is asked."""
    assert parse({}) == EvaluationSettings(MAX_NEW_TOKENS, SHOWN, None, (), None)


def test_everything_can_be_said():
    """Each key reaches its setting."""
    settings = parse(
        {
            "replies": {"max_new_tokens": 48, "limit": 20},
            "contains": {"expected": "expected", "unexpected": "wrong"},
            "groups": ["group", "later_turn"],
            "forgetting": "unrelated.jsonl",
        }
    )

    wanted = Contains("expected", "wrong")
    assert settings == EvaluationSettings(48, 20, wanted, ("group", "later_turn"), Path("unrelated.jsonl"))


def test_judged_replies_are_not_limited_unless_asked():
    """An accuracy over five rows would say little; an explicit limit holds, 0 included."""
    assert parse({"contains": {"expected": "e"}}).limit is None
    assert parse({"contains": {"expected": "e"}, "replies": {"limit": 0}}).limit == 0
    assert parse({"replies": {"max_new_tokens": 9}}).limit == SHOWN


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reply": {}}, r"evaluation\.reply: unknown key; did you mean 'replies'"),
        ({"replies": {"max_tokens": 3}}, r"evaluation\.replies\.max_tokens: unknown key; did you mean 'max_new_tok"),
        ({"replies": 5}, r"evaluation\.replies: is 5"),
        ({"replies": {"limit": -1}}, r"evaluation\.replies\.limit: is -1; use a whole number from 0 up"),
        ({"replies": {"max_new_tokens": 0}}, r"evaluation\.replies\.max_new_tokens: is 0"),
        ({"replies": {"max_new_tokens": True}}, r"evaluation\.replies\.max_new_tokens: is True"),
        ({"contains": {"unexpected": "x"}}, r"evaluation\.contains\.expected: names no column"),
        ({"contains": {"expected": ["x"]}}, r"evaluation\.contains\.expected: is \['x'\]"),
        ({"groups": "group"}, r"evaluation\.groups: is 'group'; use a list"),
        ({"forgetting": 3}, r"evaluation\.forgetting: is 3"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_refused_with_its_key(given, message):
    """A typo is answered with the near name."""
    with pytest.raises(RecipeError, match=message):
        parse(given)
