"""What is printed when a run has ended."""

import sys
from pathlib import Path

import pytest

from penala.cli.summary import CELL_WIDTH, print_summary

RESULT = {
    "status": "Completed",
    "ledger": {"rows": {"in": 12, "trained": 10, "held_out": 2}},
    "training": {"tokens": 1200, "seconds": 75.0, "peak_memory_bytes": 2e9, "steps": 3, "loss": 1.5},
    "evaluation": {"before": {"accuracy": 0.0}, "after": {"accuracy": 0.82}},
    "model": {"name": "tiny", "version": "1"},
    "endpoint": None,
    "reply": None,
}


def test_the_figures_of_a_run_fit_on_a_page(capsys):
    """A reply of a thousand words is cut in the table; rows, speed, accuracy and the model are all there."""
    print_summary(RESULT, [("Replies", [["question", "after"], ["why?", "so it is\n\n" * 1000]])], again="penala run x")
    shown = capsys.readouterr().out

    assert len(shown) < 1000 + CELL_WIDTH
    assert "so it is so it is" in shown
    assert "rows      12 in: 10 trained, 2 held out" in shown
    assert "training  3 steps, 1,200 tokens in 1 min 15 s, 2.0 GB at most, loss 1.500" in shown
    assert "accuracy 0 % -> 82 %" in shown
    assert shown.endswith("penala models download tiny:1 --to DIR\n")


@pytest.mark.parametrize("found", [True, False])
def test_a_shell_that_does_not_find_penala_is_told_how(capsys, monkeypatch, tmp_path, found):
    """`make demo` runs it by its path; the commands it leaves are typed by name."""
    program = tmp_path / ".venv/bin/penala"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    Path(tmp_path, ".venv/bin/activate").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(program.parent) if found else str(tmp_path))
    monkeypatch.chdir(tmp_path)
    endpoint = {"name": "tiny", "scoring_uri": "http://x/score", "openai_base_url": "http://x/v1"}

    print_summary(RESULT | {"endpoint": endpoint}, [], again="penala run x")

    assert ("\n  source .venv/bin/activate\n" in capsys.readouterr().out) is not found
