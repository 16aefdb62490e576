from penala.evaluation.compare import accuracy, by_group
from penala.evaluation.table import forgetting_table, replies_table, report_text, summary_table


def answer(before, after, *groups, right=None):
    sides = None if right is None else dict(zip(("before", "after"), right, strict=True))
    return {
        "question": "how | much?",
        "reference": "RM 2",
        "before": before,
        "after": after,
        "right": sides,
        "groups": list(groups),
    }


ANSWERS = [
    answer("no", "RM 2", "English", right=(False, True)),
    answer("RM 2", "RM 2", "Malay", "later turn", right=(True, True)),
    answer(None, "RM 3", "Malay", right=(False, False)),
    answer("x", "y"),
]
EVALUATION = {
    "split": "test",
    "rows": 4,
    "tokens": 1234,
    "judged": 3,
    "before": {"loss": 2.0, "perplexity": 7.389, "accuracy": 1 / 3},
    "after": {"loss": 0.5, "perplexity": 1.649, "accuracy": 2 / 3},
    "groups": by_group(ANSWERS),
    "forgetting": [{"question": "capital?", "before": "Paris", "after": "Paris\nFrance"}],
}


def test_accuracy_is_the_share_of_the_judged_replies():
    """A row without expected strings does not count; without any there is no accuracy."""
    assert accuracy(ANSWERS, "before") == 1 / 3
    assert accuracy(ANSWERS, "after") == 2 / 3
    assert accuracy(ANSWERS[3:], "after") is None


def test_groups_are_counted_each_for_itself():
    """A row may be in several groups, and the order is that of the rows."""
    assert by_group(ANSWERS) == [
        {"name": "English", "rows": 1, "before": 0.0, "after": 1.0},
        {"name": "Malay", "rows": 2, "before": 0.5, "after": 0.5},
        {"name": "later turn", "rows": 1, "before": 1.0, "after": 1.0},
    ]


def test_the_summary_shows_each_figure_before_and_after():
    """Losses as numbers, accuracies as shares with their counts, groups below."""
    assert summary_table(EVALUATION) == [
        ["", "before", "after"],
        ["loss (nats a token)", "2.000", "0.500"],
        ["perplexity", "7.389", "1.649"],
        ["accuracy", "33% (1 of 3)", "67% (2 of 3)"],
        ["English", "0% (0 of 1)", "100% (1 of 1)"],
        ["Malay", "50% (1 of 2)", "50% (1 of 2)"],
        ["later turn", "100% (1 of 1)", "100% (1 of 1)"],
    ]


def test_what_was_not_measured_is_a_dash():
    """Without rows there are no figures, and the report says so in words."""
    empty = {"loss": None, "perplexity": None}
    nothing = {"split": None, "rows": 0, "tokens": None, "judged": 0, "before": empty, "after": empty, "forgetting": []}

    assert summary_table(nothing)[1] == ["loss (nats a token)", "-", "-"]
    assert "no test or validation row" in report_text(nothing, [])


def test_replies_stand_side_by_side_and_say_whether_they_are_right():
    """A judged one is marked; one that had no room says so."""
    table = replies_table(ANSWERS, limit=None)

    assert table[1] == ["how | much?", "RM 2", "wrong: no", "right: RM 2"]
    assert table[3][2] == "wrong: (no room for a reply)"
    assert table[4][2:] == ["x", "y"]
    assert len(replies_table(ANSWERS, limit=2)) == 3
    assert forgetting_table(EVALUATION)[1] == ["capital?", "Paris", "Paris\nFrance"]


def test_the_report_is_markdown_that_no_reply_can_break():
    """Bars and line breaks inside a cell are escaped: every table keeps its columns."""
    lines = report_text(EVALUATION, ANSWERS).splitlines()

    assert "On 4 rows of test, 1,234 supervised tokens." in lines
    assert "| how \\| much? | RM 2 | wrong: no | right: RM 2 |" in lines
    assert "| capital? | Paris | Paris<br>France |" in lines
