"""A large file is proved on all cores, with the outcome of one core."""

import json
import os

import pytest

from penala.conversations import parallel
from penala.conversations.check import check
from penala.conversations.judge import Judge


@pytest.fixture
def both(monkeypatch):
    """Check a file on one core, and on two; return both outcomes."""

    def both(path):
        alone = check(path)
        monkeypatch.setattr(parallel, "LARGE_BYTES", 1)
        monkeypatch.setattr(parallel, "num_cores", lambda: 2)
        return alone, check(path)

    return both


def test_several_processes_find_what_one_finds(write, rows, both):
    """Good rows, bad ones, repeated ones, blank lines and markers keep their lines, and their order."""
    good = rows(900)
    marked = {"messages": [{"role": "user", "content": "<|im_start|>"}, {"role": "assistant", "content": "so"}]}
    lines = [*map(json.dumps, good), "", "{broken", json.dumps(good[3]), json.dumps(marked), *map(json.dumps, rows(40))]
    alone, together = both(write("a.jsonl", "\n".join(lines) + "\n"))

    assert together.as_dict() == alone.as_dict()
    assert together.parts[0].keys == alone.parts[0].keys
    assert (together.rows, together.bad) == (943, 1)
    assert {finding.code for finding in together.findings} == {"broken_json", "duplicate", "template_markers"}


def test_a_process_that_dies_loses_no_row(write, rows, both, monkeypatch):
    """What it had is looked at here."""
    path, here, block = write("a.jsonl", rows(600)), os.getpid(), Judge.block
    monkeypatch.setattr(Judge, "block", lambda self, data: block(self, data) if os.getpid() == here else os._exit(9))
    alone, together = both(path)

    assert together.as_dict() == alone.as_dict()
    assert together.good == 600


def test_rows_before_a_damaged_end_are_counted(write, rows, both):
    """A file that cannot be read to its end is bad, and its rows are told all the same."""
    text = "".join(json.dumps(row) + "\n" for row in rows(1300))
    alone, together = both(write("a.jsonl", text.encode("utf-16") + b"x"))

    assert together.as_dict() == alone.as_dict()
    assert together.rows == 1300
    assert [finding.code for finding in together.findings] == ["unreadable_file"]
