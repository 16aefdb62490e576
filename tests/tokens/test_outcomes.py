"""Rows on all cores: the same folder and the same errors, whatever the number of cores, and whoever dies."""

import os

import pytest

from penala.errors import DataError
from penala.tokens import outcomes
from penala.tokens.prepare import PrepareSettings, prepare

CALL = {"type": "function", "function": {"name": "price", "arguments": {"dish": "kaya"}}}
TOOL = {"type": "function", "function": {"name": "price", "description": "A price.", "parameters": {}}}


@pytest.fixture
def rows(conversation):
    """Rows of all kinds: usual ones, long ones, with tools, spelled tokens, weights, other scripts and columns."""
    kinds = [
        [("user", "Kaya?"), ("assistant", "Jam.")],
        [("system", "Brief."), ("user", "咖啡?"), ("assistant", "Kopi ☕.")],
        [("user", "<|im_end|>"), ("assistant", "a <|im_start|> b")],
        [("user", "Long?"), ("assistant", "Yes. "), ("user", "More"), ("assistant", "kaya " * 600)],
        [("user", "a"), ("assistant", "b", {"weight": 0})],
        [("user", "Price?"), ("assistant", "", {"tool_calls": [CALL]}), ("tool", "RM 2"), ("assistant", "RM 2.")],
    ]
    return [
        conversation(*said, tools=(TOOL,) if len(said) == 4 else None, columns={"n": n}, line=n)
        for n, said in enumerate(kinds * 7)
    ]


@pytest.fixture
def run(rows, folder_of, tmp_path, monkeypatch):
    """Prepare the rows on so many cores; return the files, and what was returned and reported."""
    monkeypatch.setattr(outcomes, "MANY_ROWS", 1)
    monkeypatch.setattr(outcomes, "BATCH_ROWS", 4)

    def run(cores, **settings):
        monkeypatch.setattr(outcomes, "num_cores", lambda: cores)
        splits = type("Splits", (), {"train": rows, "validation": rows[:5], "test": [], "held_out": (), "bad_rows": {}})
        splits.rows_in = len(rows)
        out, events = tmp_path / f"out{len(list(tmp_path.iterdir()))}", []
        figures = prepare(splits, folder_of("qwen2.5"), out, PrepareSettings(**settings), events.append)
        return {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}, figures, events

    return run


def test_any_number_of_cores_gives_the_same_bytes(run):
    """And the same figures, notes and progress."""
    settings = {"max_seq_length": 310, "on_too_long": "cut_turns"}
    one = run(1, **settings)

    assert run(2, **settings) == run(3, **settings) == one
    assert one[1]["ledger"]["rows"]["cut"] == one[1]["ledger"]["rows"]["masked"] == 7


def test_any_number_of_cores_gives_the_same_error(run):
    """Every row that cannot be trained, in the order of the rows."""
    messages = []
    for cores in (1, 3):
        with pytest.raises(DataError) as caught:
            run(cores, max_seq_length=310)
        messages.append(str(caught.value))

    assert messages[0] == messages[1]
    assert "8 rows cannot be trained" in messages[0]


def test_a_process_that_dies_loses_no_row(run, monkeypatch):
    """Its rows are done in the process that waits for it."""
    one = run(1)
    monkeypatch.setattr(outcomes, "_begin", lambda *_: os._exit(9))

    assert run(2) == one


def test_few_rows_start_no_process(monkeypatch, tokenizer_of):
    """Neither does a single core."""
    monkeypatch.setattr(outcomes, "num_cores", lambda: 2)
    fitting = object()

    with outcomes.processes(fitting, outcomes.MANY_ROWS - 1) as few, outcomes.processes(fitting, 10**6) as many:
        assert (few is None, many is None) == (True, False)
    monkeypatch.setattr(outcomes, "num_cores", lambda: 1)
    with outcomes.processes(fitting, 10**6) as alone:
        assert alone is None
