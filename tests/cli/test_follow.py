"""A job as it is shown."""

import json

import pytest

from penala.cli.follow import Display, JsonDisplay, duration, progress_text
from penala.workspace.events import Event

EVENTS = [
    Event("job", "kopitiam-1", {"status": "Running", "error": None}),
    Event("step", "chat_completion_finetune", {"status": "started", "attempt": 1}),
    Event("note", "chat_completion_finetune", {"text": "bfloat16, LoRA on 210 layers"}),
    Event("progress", "chat_completion_finetune", {"done": 1, "total": 2, "unit": "steps", "loss": 1.5, "eta_s": 75.0}),
    Event("progress", "chat_completion_finetune", {"done": 2, "total": 2, "unit": "steps", "loss": 1.25, "eta_s": 0.0}),
    Event("step", "chat_completion_finetune", {"status": "completed", "seconds": 142.0}),
    Event("step", "ft_nlp_model_converter", {"status": "reused", "reused_from": "a/b"}),
    Event("stage", "register", {"status": "started"}),
]


def test_plain_lines_tell_the_whole_story(capsys):
    """A log file of a run can be read without a terminal."""
    display = Display({"chat_completion_finetune": "Fine-tune"})
    for event in EVENTS:
        display.show(event)

    assert capsys.readouterr().err.splitlines() == [
        "Fine-tune ...",
        "    bfloat16, LoRA on 210 layers",
        "    1/2 steps, loss 1.500, 1 min 15 s left",
        "    2/2 steps, loss 1.250",
        "Fine-tune: completed in 2 min 22 s",
        "ft_nlp_model_converter: unchanged, reused",
        "Register the model version ...",
    ]


def test_lines_of_steps_side_by_side_say_whose_they_are(capsys):
    """As long as more than one runs; each tells its own progress."""
    display = Display({"a": "First", "b": "Second"})
    for name in "ab":
        display.show(Event("step", name, {"status": "started", "attempt": 1}))
    for name in "abab":
        display.show(Event("progress", name, {"done": 1, "total": 3, "unit": "rows"}))
    display.show(Event("step", "a", {"status": "completed", "seconds": 1.0}))
    display.show(Event("note", "b", {"text": "alone"}))

    assert capsys.readouterr().err.splitlines() == [
        "First ...",
        "Second ...",
        "    First: 1/3 rows",
        "    Second: 1/3 rows",
        "First: completed in 1.0 s",
        "    alone",
    ]


def test_a_printed_line_is_shown_as_a_terminal_leaves_it(capsys):
    """Progress bars overwrite themselves, and colours are no text."""
    display = Display({})
    for text in ("plain ü", "\x1b[31mred\x1b[0m", "10%\r20%\r", "\x07bell"):
        display.show(Event("log", "main", {"text": text}))

    assert capsys.readouterr().err.splitlines() == ["plain ü", "red", "20%", "\\x07bell"]


def test_a_machine_gets_one_object_a_line_on_stdout(capsys):
    """Every event is JSON, and nothing else is on stdout."""
    display = JsonDisplay({})
    for event in EVENTS:
        display.show(event)

    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in shown] == [event.kind for event in EVENTS]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (59.4, "59 s"), (142, "2 min 22 s"), (7500, "2 h 5 min")]
)
def test_a_duration_is_said_as_a_person_says_it(seconds, text):
    """From tenths of a second to hours."""
    assert duration(seconds) == text


def test_a_long_step_is_not_told_over_and_over(capsys, monkeypatch):
    """A line that says what the last one said is not printed again."""
    monkeypatch.setattr("penala.cli.follow.SECONDS_BETWEEN_LINES", 0.0)
    display = Display({})
    for done in (0, 0, 1, 1, 1):
        display.progress("Fine-tune", {"done": done, "total": 31, "unit": "steps"})

    assert capsys.readouterr().err == "    0/31 steps\n    1/31 steps\n"


def test_progress_without_a_loss_is_only_a_count():
    """Replies have no loss."""
    assert progress_text({"done": 3, "total": 60, "unit": "replies"}) == "3/60 replies"
