"""`penala data report | show | tokens --html`, as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penala.cli.data import _progress


def penala(*argv: object, cwd: Path, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """Run the program as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "penala", "data", *map(str, argv)],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
        env={"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve good rows and a bad one."""
    rows = [
        {"messages": [{"role": "user", "content": f"soalan {n}"}, {"role": "assistant", "content": f"jawapan é {n}"}]}
        for n in range(12)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": None}]), encoding="utf-8")
    return path


def test_report_says_all_on_stdout_and_writes_the_page(data, chat_model):
    """The text counts tokens with a model; the page lies where --out says; findings do not make it fail."""
    done = penala("report", data.name, "--model", chat_model, "--epochs", 3, "--out", "r.html", cwd=data.parent)

    assert done.returncode == 0, done.stderr
    assert "13 rows, 12 good, 1 bad" in done.stdout
    assert "Length of a row in tokens" in done.stdout
    assert "the model takes 256 tokens" in done.stdout
    assert (data.parent / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in data.parent.iterdir()) == ["r.html", "train.jsonl"]


def test_report_gives_machines_every_figure(data):
    """--json prints one object, and names the options that read the file the same way again."""
    done = penala("report", data.name, "--schema", "messages", "--json", cwd=data.parent)

    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["good"], figures["bad"]) == (13, 12, 1)
    assert figures["notable"][0]["show"].startswith("penala data show train.jsonl --row ")
    assert figures["notable"][0]["show"].endswith(" --schema messages")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["report", "none.jsonl"], "none.jsonl: no such file"),
        (["report", "train.jsonl", "--out", "nowhere/r.html"], "nowhere/r.html: cannot be written: No such file"),
        (["report", "train.jsonl", "--out", "."], ".: cannot be written: Is a directory"),
        (["report", "train.jsonl", "--column", "x"], "is not OURS=THEIRS"),
        (["check", "train.jsonl", "--column", "output=a", "--column", "output=b"], "--column output: is a and b"),
        (["check", "train.jsonl", "--column", "output=a", "--column", "input=a"], "'a' is named as output and input"),
        (["check", "train.jsonl", "--out", "train.jsonl"], "train.jsonl: is the data itself"),
        (["report", "train.jsonl", "--out", "./train.jsonl"], "train.jsonl: is the data itself"),
        (["report", ".", "--out", "train.jsonl"], "train.jsonl: is the data itself"),
        (["tokens", "train.jsonl", "--model", "MODEL", "--html", "train.jsonl"], "train.jsonl: is the data itself"),
        (["show", "train.jsonl", "--row", "14"], "there is no record 14; it has 13"),
        (["tokens", "train.jsonl", "--row", "13", "--model", "MODEL"], "data show train.jsonl --row 13` says what"),
        (["tokens", "train.jsonl", "--model", "MODEL", "--html", "no/t.html"], "no/t.html: cannot be written"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(data, chat_model, argv, message):
    """No traceback, no file, and the data is as it was."""
    before = data.read_bytes()
    done = penala(*[chat_model if word == "MODEL" else word for word in argv], cwd=data.parent)

    assert done.returncode == (1 if "says what" in message else 2)  # a bad row is a finding in data
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(data.parent.iterdir()) == [data]
    assert data.read_bytes() == before


def test_a_long_check_says_how_far_it_is(data, monkeypatch):
    """Rows, the share of the bytes and the time left, where the share is known."""
    clock = iter((0.0, 1.0, 3.0, 4.0, 60.0))
    monkeypatch.setattr("penala.cli.data.time.monotonic", lambda: next(clock))
    said = []
    monkeypatch.setattr("penala.cli.data.say", said.append)
    progress = _progress()
    for rows, share in ((10, 0.1), (30, 0.3), (40, 0.4), (6000, 0.0)):
        progress(rows, share)

    assert said == ["30 rows, 30%, 7.0 s left", "6,000 rows"]


def test_show_prints_plain_rows_to_a_pipe(data):
    """Good and bad rows, no colour, no pager."""
    done = penala("show", data.name, "--row", 12, "--limit", 5, cwd=data.parent)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train.jsonl:12  row 12  2 messages, ")
    assert "user\n  soalan 11\nassistant\n  jawapan é 11\n" in done.stdout
    assert "train.jsonl:13  row 13 is bad\nerror: " in done.stdout
    assert "\x1b" not in done.stdout


def test_show_prints_what_an_old_terminal_can(data):
    """A character that the output's encoding does not know is escaped, not an error."""
    done = penala("show", data.name, cwd=data.parent, encoding="ascii")

    assert done.returncode == 0, done.stderr
    assert r"jawapan \xe9 0" in done.stdout


def test_show_gives_machines_canonical_rows(data):
    """One row a line on stdout; the bad one is said on stderr."""
    done = penala("show", data.name, "--json", cwd=data.parent)

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 12
    assert rows[11]["messages"][1]["content"] == "jawapan é 11"
    assert "row 13 is bad" in done.stderr


def test_tokens_are_written_as_a_page(data, chat_model):
    """The page shows the same tokens that --json prints."""
    argv = ("tokens", data.name, "--row", 2, "--model", chat_model, "--json", "--html", "t.html")

    done = penala(*argv, cwd=data.parent)

    assert done.returncode == 0, done.stderr
    html = (data.parent / "t.html").read_text(encoding="utf-8")
    assert html.count('title="token ') == len(json.loads(done.stdout))
