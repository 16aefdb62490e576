"""A large file is judged on all cores, with the outcome of one core."""

import json
import os
import random

import pytest

from penala.conversations import files, judge, measured, parallel
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


def test_rows_before_an_early_damage_are_counted(write, rows):
    """Damage among the rows that choose the schema loses none of those before it."""
    text = "".join(json.dumps(row) + "\n" for row in rows(600))
    checked = check(write("a.jsonl", text.encode("utf-16") + b"x"))

    assert checked.rows > 0
    assert [finding.code for finding in checked.findings] == ["unreadable_file"]


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\r\n"])
def test_no_number_of_cores_changes_the_outcome(write, rows, monkeypatch, end, mark, cores):
    """Whatever ends lines, wherever parts of the file meet, and with numpy or without."""
    rng = random.Random(repr(end))
    odd = [b"", b"  ", b"{broken", b'{"messages": []}', json.dumps({"text": "x" * 900}).encode(), b"\xff", b"[1]"]
    good = [json.dumps(row).encode() for row in rows(60)]
    path = write("a.jsonl", mark + end.join([good[0], *(rng.choice(odd + good) for _ in range(250)), good[1]]))
    alone = check(path)
    every = list(alone.rows_again())
    monkeypatch.setattr(measured, "VECTOR_BYTES", 0)
    monkeypatch.setattr(parallel, "RANGE_BYTES", 700)
    monkeypatch.setattr(parallel, "pays", lambda path: True)
    monkeypatch.setattr(parallel, "num_cores", lambda: cores)
    together = check(path)

    assert together.as_dict() == alone.as_dict()
    assert together.parts[0].keys == alone.parts[0].keys
    assert {finding.code for finding in together.findings} >= {"broken_json", "duplicate", "not_utf8", "text"}
    for start in (0, 1, len(every) // 2, len(every)):
        again = list(together.rows_again(start))
        assert [(row, row.line, row.row) for row in again] == [(row, row.line, row.row) for row in every[start:]]


def test_rows_far_into_a_file_are_read_from_there(write, rows, monkeypatch):
    """Rows that are cut off train do not cost a reading of train."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(judge, "TOGETHER_BYTES", 5000)
    checked = check(write("a.jsonl", rows(2000)))
    read, judged = [], Judge.rows
    monkeypatch.setattr(Judge, "rows", lambda self, block: read.append(block) or judged(self, block))

    assert [conversation.line for conversation in checked.rows_again(1990)] == list(range(1991, 2001))
    assert 10 <= sum(block.count(b"\n") for block in read) < 100


def test_a_process_that_dies_loses_no_row(write, rows, both, monkeypatch):
    """What it had is looked at here."""
    path, here, judged = write("a.jsonl", rows(600)), os.getpid(), Judge.blocks
    monkeypatch.setattr(Judge, "blocks", lambda self, data: judged(self, data) if os.getpid() == here else os._exit(9))
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
