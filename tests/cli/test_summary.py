"""What is printed when a run has ended."""

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
