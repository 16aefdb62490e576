import json

import pytest

from penala.conversations.check import check
from penala.tokens.measure import Meter


@pytest.fixture
def measured(chat_model, tmp_path):
    """Measure rows (or lines of text) with the tiny model, which takes 256 tokens."""

    def measured(rows, max_seq_length=None):
        file = tmp_path / "rows.jsonl"
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        file.write_text("".join(line + "\n" for line in lines))
        meter = Meter(chat_model, "tiny", max_seq_length)

        def take(judged):
            if judged.conversation is not None:
                meter.take(judged.conversation)

        return meter.figures(check(file, each=take))

    return measured


def row(question: str, answer: str, **extra):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **extra}]}


def test_every_row_is_in_the_ledger_once(measured):
    """Trained, masked by wish, too long and bad rows add up to what was read."""
    rows = [row("q", f"a{n}") for n in range(100)]

    figures = measured([*rows, row("q", "x y z " * 200), row("q", "a", weight=0), '{"messages": "hello"}'])

    assert figures["ledger"]["rows"] == {"in": 103, "trained": 100, "masked": 1, "cut": 0, "dropped": 2, "held_out": 0}
    assert {reason: counted["rows"] for reason, counted in figures["ledger"]["reasons"]["dropped"].items()} == {
        "messages_text": 1,
        "too_long": 1,
    }
    tokens = figures["ledger"]["tokens"]
    assert tokens["in"] == tokens["trained"] + tokens["masked"] + tokens["dropped"] == figures["lengths"]["total"]


def test_lengths_are_those_of_the_tokenizer(measured, chat_model):
    """The length of a row is the number of its training tokens; supervised are those with loss."""
    from penala.conversations.conversation import Conversation, Message
    from penala.tokens.chat_tokenizer import ChatTokenizer

    tokens = ChatTokenizer.from_folder(chat_model).training_tokens(
        Conversation((Message("user", "Apa khabar?"), Message("assistant", "Baik.")))
    )

    figures = measured([row("Apa khabar?", "Baik.")])

    assert figures["lengths"]["max"] == figures["trained_tokens"] == len(tokens.ids)
    assert figures["supervised_tokens"] == tokens.num_supervised


def test_the_lower_of_both_limits_holds(measured):
    """max_seq_length below the model's context makes rows too long; above it changes nothing."""
    rows = [row("q", "word " * 20), row("q", "a")]

    assert measured(rows)["lengths"]["limits"] == {"context": 256}
    assert measured(rows, 40)["lengths"]["limits"] == {"context": 256, "max_seq_length": 40}
    assert measured(rows, 40)["ledger"]["rows"]["dropped"] == 1
    assert measured(rows, 4000)["ledger"]["rows"]["dropped"] == 0


def test_rows_that_the_template_refuses_are_named(measured):
    """A tool call that the template does not write is said with its row, and counted."""
    call = {"type": "function", "function": {"name": "price", "arguments": "{}"}}
    rows = [row("q", "a"), row("q", "a", tool_calls=[call])]

    figures = measured(rows)

    assert figures["refused"]["rows"] == 1
    assert "rows.jsonl:2: messages[1].tool_calls[0]" in figures["refused"]["first"][0]
    assert figures["ledger"]["reasons"]["dropped"] == {"template_or_mask": {"rows": 1, "tokens": 0}}


def test_the_rows_that_cost_most_for_what_they_say_are_named(measured):
    """Text in a script that the tokenizer does not know takes more than a token a character."""
    figures = measured([row("q", "abc " * 50), row("q", "马来西亚" * 12 + "a" * 160)], 10_000)

    odd = [notable for notable in figures["notable"] if "characters a supervised token" in notable.why]
    assert odd[0].row == 2
