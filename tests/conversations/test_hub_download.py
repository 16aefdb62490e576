"""The first rows of a hub set come here, little else is moved, and a second start goes on where the first was cut."""

import fcntl
import gzip
import json
import os
import random
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from penala.conversations import hub
from penala.conversations.hub import Unreachable, open_set
from penala.conversations.hub_download import download
from penala.errors import DataError, UsageError

REPO = "HuggingFaceH4/ultrachat_200k"
SIZES = {"train_sft": (1200, 3), "test_sft": (400, 1), "train_gen": (800, 2), "test_gen": (400, 1)}


def rows(count: int, seed: int = 0) -> list[dict]:
    """Return rows in ultrachat's shape whose text cannot be packed."""
    generator = random.Random(seed)
    return [
        {
            "prompt": f"{number} {generator.randbytes(99).hex()}",
            "messages": [{"content": generator.randbytes(300).hex(), "role": role} for role in ("user", "assistant")],
        }
        for number in range(count)
    ]


def texts(count: int) -> list[dict]:
    """Return rows of one length."""
    return [{"n": number, "text": "x" * 990} for number in range(10_000, 10_000 + count)]


def write_shards(folder, split: str, content: list[dict], shards: int, group_rows: int = 20) -> None:
    """Write rows as parquet shards under the names that the hub's own tools give."""
    folder.mkdir(parents=True, exist_ok=True)
    each = len(content) // shards
    for number in range(shards):
        table = pyarrow.Table.from_pylist(content[number * each : (number + 1) * each])
        path = folder / f"{split}-{number:05}-of-{shards:05}-0a1b2c.parquet"
        pyarrow.parquet.write_table(
            table, path, row_group_size=group_rows, write_statistics=False, use_dictionary=False
        )


@pytest.fixture(scope="session")
def ultrachat(tmp_path_factory):
    """A small set in ultrachat's layout: four splits, seven shards. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("hub") / "ultrachat"
    for split, (count, shards) in SIZES.items():
        write_shards(folder / "data", split, rows(count), shards)
    return folder


@pytest.fixture
def served(tmp_path, hub_class):
    """A hub with an empty data set of the test's own."""
    (tmp_path / "repo").mkdir()
    with hub_class.Hub(REPO, tmp_path / "repo", "datasets") as running:
        yield running


@pytest.fixture
def served_ultrachat(ultrachat, hub_class):
    """A hub with the small ultrachat."""
    with hub_class.Hub(REPO, ultrachat, "datasets") as running:
        yield running


@pytest.fixture
def fetch(tmp_path):
    """Download from a running hub to the folder `out` of the test."""
    return lambda running, **options: download(open_set(REPO, endpoint=running.url), tmp_path / "out", **options)


def lines(path) -> list[dict]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(path) -> dict[str, bytes]:
    """Return the files of a folder that are not hidden."""
    return {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith(".")}


def test_five_percent_of_the_rows_move_about_five_percent_of_the_bytes(served_ultrachat, ultrachat, fetch, tmp_path):
    """Four splits come as JSONL, each with its first rows, for less than 8 % of the bytes."""
    got = fetch(served_ultrachat, percent=5)

    for split, (count, shards) in SIZES.items():
        assert lines(tmp_path / "out" / f"{split}.jsonl") == rows(count)[: round(count * 5 / 100)], shards
        assert (got[split].rows, got[split].of) == (round(count * 5 / 100), count)
    everything = sum(file.stat().st_size for file in ultrachat.rglob("*.parquet"))
    assert sum(one.bytes_moved for one in got.values()) == served_ultrachat.moved < everything * 0.08
    assert not served_ultrachat.fetched


def test_the_whole_set_comes_over_the_borders_of_shards(served_ultrachat, fetch, tmp_path):
    """Without a percent every row comes, in the order of the shards' names."""
    fetch(served_ultrachat, splits=("train_sft", "train_gen"))

    assert lines(tmp_path / "out" / "train_sft.jsonl") == rows(1200)
    assert lines(tmp_path / "out" / "train_gen.jsonl") == rows(800)
    assert not (tmp_path / "out" / "test_sft.jsonl").exists()


def test_of_one_large_row_group_only_the_wanted_pages_move(served, fetch, tmp_path):
    """A file whose writer made a single row group of 6 MB costs a fifth for a twentieth, not all of it."""
    write_shards(served.folder, "train", rows(5000), 1, group_rows=5000)

    fetch(served, percent=5)

    assert lines(tmp_path / "out" / "train.jsonl") == rows(5000)[:250]
    assert served.moved < next(served.folder.glob("*.parquet")).stat().st_size / 2


@pytest.mark.parametrize("percent", [5, 40, 100])
def test_a_second_start_goes_on_where_the_first_was_cut(percent, served_ultrachat, fetch, tmp_path, monkeypatch):
    """What came before the hub died is not moved again, and the files are those of a download that was never cut."""
    monkeypatch.setattr(hub, "WAITS_S", ())
    whole = download(open_set(REPO, endpoint=served_ultrachat.url), tmp_path / "whole", percent=percent)
    needed = served_ultrachat.moved
    served_ultrachat.moved, served_ultrachat.dies_after = 0, needed // 2

    with pytest.raises(Unreachable, match="the same command goes on"):
        fetch(served_ultrachat, percent=percent)
    assert set(content(tmp_path / "out")) < set(content(tmp_path / "whole"))
    served_ultrachat.dies_after = None
    got = fetch(served_ultrachat, percent=percent)

    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert {name: one.rows for name, one in got.items()} == {name: one.rows for name, one in whole.items()}
    assert served_ultrachat.moved < needed * 1.15  # a row group and the footers of a split come twice


def test_cut_connections_within_a_run_are_not_noticed(served_ultrachat, fetch, tmp_path):
    """Every connection is cut after 50 kB; the rows are right, and no more is moved."""
    served_ultrachat.cut_after = 50_000

    fetch(served_ultrachat, percent=50, splits=("test_sft",))

    assert lines(tmp_path / "out" / "test_sft.jsonl") == rows(400)[:200]


def test_what_is_complete_is_not_fetched_again(served_ultrachat, fetch, tmp_path):
    """The second start moves nothing; with force it moves all again."""
    first = fetch(served_ultrachat, percent=10, splits=("test_sft",))
    moved = served_ultrachat.moved

    again = fetch(served_ultrachat, percent=10, splits=("test_sft",))

    assert served_ultrachat.moved == moved
    assert (again["test_sft"].reused, again["test_sft"].rows) == (True, first["test_sft"].rows)
    assert not fetch(served_ultrachat, percent=10, splits=("test_sft",), force=True)["test_sft"].reused
    assert served_ultrachat.moved == 2 * moved


def test_a_file_of_the_users_is_never_overwritten(served_ultrachat, fetch, tmp_path):
    """It is refused before anything moves, and overwritten only by force."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train_gen.jsonl").write_text("mine")

    with pytest.raises(UsageError, match=r"train_gen\.jsonl: is there already; --force overwrites it"):
        fetch(served_ultrachat, percent=5)
    assert served_ultrachat.moved == 0
    assert content(tmp_path / "out") == {"train_gen.jsonl": b"mine"}
    fetch(served_ultrachat, percent=5, force=True)

    assert lines(tmp_path / "out" / "train_gen.jsonl") == rows(800)[:40]


def test_another_share_does_not_replace_the_first_unasked(served_ultrachat, fetch):
    """The error says what lies there."""
    fetch(served_ultrachat, percent=5, splits=("test_sft",))

    with pytest.raises(UsageError, match=f"is there already: 5 % of {REPO} at c0ffee0"):
        fetch(served_ultrachat, percent=6, splits=("test_sft",))


def test_a_changed_output_is_the_users_and_stays(served_ultrachat, fetch, tmp_path):
    """A download that was edited afterwards counts as a file of the user's."""
    fetch(served_ultrachat, percent=5, splits=("test_sft",))
    with (tmp_path / "out" / "test_sft.jsonl").open("a") as file:
        file.write("{}\n")

    with pytest.raises(UsageError, match="is there already"):
        fetch(served_ultrachat, percent=5, splits=("test_sft",))


def test_a_file_is_no_folder_for_the_splits(served_ultrachat, fetch, tmp_path):
    """It is refused before anything moves, and stays as it is."""
    (tmp_path / "out").write_text("mine")

    with pytest.raises(UsageError, match=r"out: is a file, not a folder"):
        fetch(served_ultrachat, percent=5)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_a_percent_that_is_no_share_is_refused(served_ultrachat, fetch, percent):
    """Zero, less, more than all, and no number."""
    with pytest.raises(UsageError, match="use a number above 0 and up to 100"):
        fetch(served_ultrachat, percent=percent)


def test_of_lines_the_transfer_stops_after_the_share(served, fetch, tmp_path):
    """A JSONL of a card without counts: rows of the first 5 % of the bytes, over two files, and it is said."""
    for number in range(2):
        text = "".join(json.dumps(row) + "\n" for row in texts(2000)[number * 1000 : number * 1000 + 1000])
        (served.folder / f"train-{number}-of-2.jsonl").write_text(text)
    notes = []

    got = fetch(served, percent=55, report=notes.append)

    assert lines(tmp_path / "out" / "train.jsonl") == texts(2000)[:1100]
    assert (got["train"].rows, got["train"].of) == (1100, None)
    assert "does not say how many rows it has; these lie in the first 55 %" in notes[-1]["text"]
    assert served.moved < 2_060_000 * 0.6


def test_the_card_says_how_many_lines_there_are(served, fetch, tmp_path):
    """Then the share is exact, though the first rows are the longest."""
    content = [{"n": number, "text": "x" * (1500 if number < 300 else 300)} for number in range(1000)]
    (served.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in content))
    info = "dataset_info: {splits: [{name: train, num_examples: 1000}]}"
    (served.folder / "README.md").write_text(f"---\n{info}\n---\n")

    got = fetch(served, percent=10)

    assert lines(tmp_path / "out" / "train.jsonl") == content[:100]
    assert got["train"].of == 1000
    assert served.moved < 250_000


def test_a_card_that_claims_too_many_rows_is_found_out(served, fetch, tmp_path):
    """The share is that of the rows there are, and the difference is told."""
    (served.folder / "train.jsonl").write_text("\n\n".join(json.dumps(row) for row in texts(40)))
    info = "dataset_info: {splits: [{name: train, num_examples: 400}]}"
    (served.folder / "README.md").write_text(f"---\n{info}\n---\n")
    notes = []

    got = fetch(served, percent=50, report=notes.append)

    assert lines(tmp_path / "out" / "train.jsonl") == texts(40)[:20]
    assert (got["train"].rows, got["train"].of) == (20, 40)
    assert notes == [{"event": "note", "text": "train: the card claims 400 rows, the files hold 40"}]


@pytest.mark.parametrize(("claimed", "is_told"), [(1000, True), (5000, False), (4000, False)])
def test_a_claim_that_does_not_fit_the_bytes_is_told(served, fetch, claimed, is_told):
    """A tenth of 1000 rows lies in a fiftieth of 5000: the card may be older than the file."""
    (served.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts(5000)))
    info = f"dataset_info: {{splits: [{{name: train, num_examples: {claimed}}}]}}"
    (served.folder / "README.md").write_text(f"---\n{info}\n---\n")
    notes = []

    fetch(served, percent=10, report=notes.append)

    text = "train: 10 % of the 1000 rows that the card claims lie in the first 2 % of the bytes: the claim may be wrong"
    assert [note["text"] for note in notes if note["event"] == "note"] == [text] * is_told


def test_a_part_that_another_process_has_just_finished_is_left_alone(served, fetch, tmp_path, monkeypatch):
    """Between the opening and the lock the file got its final name; the download goes into a file of its own."""
    (served.folder / "train.jsonl").write_text('{"n": 1}\n')
    part, theirs, lock = tmp_path / "out" / ".train.jsonl.part", tmp_path / "theirs.jsonl", fcntl.flock

    def lock_too_late(file, how):
        if not theirs.exists():
            part.write_text("theirs")
            part.rename(theirs)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_too_late)
    fetch(served)

    assert theirs.read_text() == "theirs"
    assert lines(tmp_path / "out" / "train.jsonl") == [{"n": 1}]


def test_an_empty_shard_is_no_hindrance(served, fetch, tmp_path):
    """The rows of the others come, and are counted."""
    for number, text in enumerate(("", '{"n": 1}\n{"n": 2}', "")):
        (served.folder / f"train-{number}-of-3.jsonl").write_text(text)

    got = fetch(served)

    assert lines(tmp_path / "out" / "train.jsonl") == [{"n": 1}, {"n": 2}]
    assert got["train"].of == 2


@pytest.mark.parametrize("sizes", [(3, 0, 2), (0, 5), (0,)])
def test_an_empty_row_group_doubles_and_loses_nothing(served, fetch, tmp_path, sizes):
    """pyarrow writes a table without rows as a group without rows."""
    schema = pyarrow.schema({"n": pyarrow.int64()})
    with pyarrow.parquet.ParquetWriter(served.folder / "train.parquet", schema) as writer:
        for number, size in enumerate(sizes):
            writer.write_table(pyarrow.table({"n": [10 * number + row for row in range(size)]}, schema=schema))

    fetch(served)

    expected = [{"n": 10 * number + row} for number, size in enumerate(sizes) for row in range(size)]
    assert lines(tmp_path / "out" / "train.jsonl") == expected


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("train.json", lambda rows: json.dumps(rows, indent=1).encode()),
        ("train.json", lambda rows: json.dumps({"data": rows}).encode()),
        ("train.json", lambda rows: b"\n".join(json.dumps(row).encode() for row in rows)),
        ("train.jsonl", lambda rows: b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in rows)),
        ("train.jsonl", lambda rows: json.dumps(rows, indent=1).encode()),
        ("train.jsonl", lambda rows: json.dumps(rows).encode()),
        ("train.jsonl", lambda rows: "\n".join(json.dumps(row) for row in rows).encode("utf-16")),
        ("train.jsonl.gz", lambda rows: gzip.compress(b"\n".join(json.dumps(row).encode() for row in rows))),
        ("train.csv", lambda rows: "\n".join(["n,text", *(f'"{row["n"]}",{row["text"]}' for row in rows)]).encode()),
        ("train.tsv", lambda rows: "\n".join(["n\ttext", *(f"{row['n']}\t{row['text']}" for row in rows)]).encode()),
    ],
    ids=["array", "data", "lines", "bom", "array under jsonl", "on one line", "utf-16", "gz", "csv", "tsv"],
)
def test_other_files_give_their_first_rows_too(served, fetch, tmp_path, name, write):
    """JSON documents, packed lines and tables of unknown length are counted, and the share is exact."""
    (served.folder / name).write_bytes(write(texts(50)))

    got = fetch(served, percent=10)

    found = lines(tmp_path / "out" / "train.jsonl")
    assert [{**row, "n": int(row["n"])} for row in found] == texts(50)[:5]
    assert (got["train"].rows, got["train"].of) == (5, 50)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [".train.jsonl.download.json", "train.jsonl"]


def test_a_table_that_was_cut_goes_on_too(served, fetch, tmp_path, monkeypatch):
    """The second start fetches only the rest of the file."""
    monkeypatch.setattr(hub, "WAITS_S", ())
    text = "".join(f"{row['n']},{row['text']}\n" for row in texts(300))
    for number in range(2):
        (served.folder / f"train{number}.csv").write_text("n,text\n" + text)
    served.dies_after = 400_000

    with pytest.raises(Unreachable):
        fetch(served)
    served.dies_after = None
    fetch(served)

    assert [int(row["n"]) for row in lines(tmp_path / "out" / "train.jsonl")] == [row["n"] for row in texts(300)] * 2
    assert served.moved < 2 * len(text) + 150_000


def test_rows_that_cannot_be_read_are_left_out_and_told(served, fetch, tmp_path):
    """A ragged row of a table stops nobody, and is no row of the set."""
    (served.folder / "train.csv").write_text("prompt,completion\na,b\nc\nd,e\n")
    notes = []

    got = fetch(served, report=notes.append)

    assert lines(tmp_path / "out" / "train.jsonl") == [
        {"prompt": "a", "completion": "b"},
        {"prompt": "d", "completion": "e"},
    ]
    assert got["train"].rows == 2
    assert "train: 1 rows of train.csv cannot be read and are left out, the first: line 3:" in notes[0]["text"]


def test_tables_cannot_speak_to_the_terminal(served, fetch):
    """Column names of the hub are spelled out in notes and errors."""
    table, notes = served.folder / "train.csv", []
    table.write_text("prompt,\x1b[2J\na\n")
    fetch(served, report=notes.append)
    table.write_text("prompt,\x1b[2J,\x1b[2J\na,b,c\n")

    assert notes[0]["text"].endswith(r"prompt, \x1b[2J")
    with pytest.raises(DataError, match=r"two columns are named '\\x1b\[2J'"):
        fetch(served, force=True)


def test_a_share_below_half_a_row_is_an_empty_file_and_said(served, fetch, tmp_path):
    """round(4 x 0.05) is 0."""
    (served.folder / "train.jsonl").write_text('{"n": 1}\n' * 4)
    notes = []

    fetch(served, percent=5, report=notes.append)

    assert (tmp_path / "out" / "train.jsonl").read_bytes() == b""
    assert notes[-1]["text"] == "train: 5 % of it is no row"


def test_damaged_parquet_is_named(served, fetch):
    """The file and whose fault it is, without a traceback."""
    (served.folder / "train.parquet").write_bytes(b"PAR1" + bytes(5000) + b"PAR1")

    with pytest.raises(DataError, match=r"train\.parquet: is a damaged parquet file"):
        fetch(served)


def test_the_command_prints_what_came_and_what_to_type_next(served_ultrachat, tmp_path):
    """A table on stdout, JSON for machines, the next command on stderr; HF_ENDPOINT tells where the hub is."""
    out = tmp_path / "a folder"
    command = [sys.executable, "-m", "penala", "data", "download", REPO, "--percent", "5", "--out", str(out)]
    environment = os.environ | {"HF_ENDPOINT": served_ultrachat.url}

    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    again = subprocess.run([*command, "--split", "test_sft"], env=environment, capture_output=True, text=True)

    result = json.loads(done.stdout)
    assert {name: split["rows"] for name, split in result["splits"].items()} == {
        name: round(count / 20) for name, (count, _) in SIZES.items()
    }
    assert sum(split["bytes_moved"] for split in result["splits"].values()) > 0
    assert again.returncode == 0
    assert "is there" in again.stdout
    assert again.stderr == f"Next: `penala data check '{out}/test_sft.jsonl'`\n"
