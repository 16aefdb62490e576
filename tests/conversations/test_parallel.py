"""A large file is proved on all cores, with the outcome of one core."""

import json

from penala.conversations import parallel
from penala.conversations.check import check


def test_several_processes_find_what_one_finds(write, rows, monkeypatch):
    """Good rows, bad ones, repeated ones, blank lines and markers keep their lines, and their order."""
    good = rows(900)
    marked = {"messages": [{"role": "user", "content": "<|im_start|>"}, {"role": "assistant", "content": "so"}]}
    lines = [*map(json.dumps, good), "", "{broken", json.dumps(good[3]), json.dumps(marked), *map(json.dumps, rows(40))]
    path = write("a.jsonl", "\n".join(lines) + "\n")
    alone = check(path, keep=False)
    monkeypatch.setattr(parallel, "LARGE_BYTES", 1)
    monkeypatch.setattr(parallel, "num_cores", lambda: 2)
    together = check(path, keep=False)

    assert together.as_dict() == alone.as_dict()
    assert together.parts[0].keys == alone.parts[0].keys
    assert (together.rows, together.bad) == (943, 1)
    assert {finding.code for finding in together.findings} == {"broken_json", "duplicate", "template_markers"}
