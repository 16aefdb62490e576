"""What the entry modules share: arguments, events, errors."""

import json
import sys
from pathlib import Path

import pytest

from penala.components import entry
from penala.errors import DataError, RecipeError

FINETUNE = "chat_completion_finetune"
NEEDED = ["--preprocess_output", "p", "--model_selector_output", "m", "--pytorch_model_folder", "out"]


def test_arguments_are_typed_and_unset_ones_have_the_components_default():
    """A path is a Path, a number a number; what is not given is what the YAML says."""
    arguments = entry.parse(FINETUNE, [*NEEDED, "--learning_rate", "5e-6", "--lora_r", "4"])

    assert arguments["preprocess_output"] == Path("p")
    assert arguments["learning_rate"] == 5e-6
    assert arguments["lora_r"] == 4
    assert arguments["lora_alpha"] == 128
    assert arguments["learning_rate_max"] is None


def test_a_wrong_value_is_refused_by_name():
    """Types and choices hold for job documents as they do for recipes."""
    with pytest.raises(RecipeError, match="lr_scheduler_type: is 'banana'; use linear"):
        entry.parse(FINETUNE, [*NEEDED, "--lr_scheduler_type", "banana"])


def run(monkeypatch, tmp_path, body):
    """Run a body as a component; return its exit code and its events."""
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("PENALA_EVENTS", str(events))
    monkeypatch.setattr(sys, "argv", [FINETUNE, *NEEDED])
    code = 0
    try:
        entry.run(FINETUNE, body)
    except SystemExit as done:
        code = done.code
    return code, [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]


def test_figures_are_the_last_event(monkeypatch, tmp_path, capsys):
    """What a body reports and returns reaches the runner; notes are in the log too."""

    def body(arguments, report):
        report({"event": "note", "text": "hello"})
        return {"steps": 3}

    code, events = run(monkeypatch, tmp_path, body)

    assert code == 0
    assert events == [{"event": "note", "text": "hello"}, {"event": "figures", "figures": {"steps": 3}}]
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("is broken", where="train.jsonl:17", fix="mend it"), 1, "error: train.jsonl:17: is broken; mend it"),
        (RecipeError("is refused"), 2, "error: is refused"),
        (OSError(28, "No space left on device", "/full"), 1, "error: /full: No space left on device"),
    ],
)
def test_an_expected_failure_is_an_event_and_one_line_of_the_log(monkeypatch, tmp_path, capsys, error, code, line):
    """No traceback for what the user can mend, a full disk among it."""

    def body(arguments, report):
        raise error

    exit_code, events = run(monkeypatch, tmp_path, body)

    assert exit_code == code
    assert events[-1]["event"] == "error"
    assert events[-1]["exit_code"] == code
    assert capsys.readouterr().out == line + "\n"
