"""What the hub says and refuses: the real huggingface_hub client against a hub on loopback."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from penala.conversations import hub
from penala.conversations.hub import Unreachable, open_set
from penala.errors import DataError, UsageError

REPO = "kopi/chats"


@pytest.fixture
def served(tmp_path, hub_class):
    """A hub whose data set is the folder `repo` of the test; it holds train.jsonl of 3 rows."""
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"n": 0}\n{"n": 1}\n{"n": 2}\n')
    with hub_class.Hub(REPO, folder, "datasets") as running:
        yield running


@pytest.fixture
def stream(served):
    """A stream of a file of 100 kB, and the bytes of the file."""
    content = bytes(range(250)) * 400
    (served.folder / "train.jsonl").write_bytes(content)
    found = open_set(REPO, endpoint=served.url)
    return found.open(found.splits["train"].files[0], lambda count: None), content


def test_a_set_is_one_commit_with_its_splits(served, hub_class):
    """The branch is resolved once, and more files than a page of the listing holds are all seen."""
    for split in ("test", "dev", "eval", "validation", "testing"):
        (served.folder / f"{split}.jsonl").write_text("{}\n")

    found = open_set(REPO, endpoint=served.url)

    assert (found.revision, found.asked, found.config) == (hub_class.COMMIT, "main", "default")
    assert set(found.splits) == {"train", "test", "dev", "eval", "validation", "testing"}
    assert found.splits["train"].size == 27


def test_a_stream_is_a_file(stream):
    """It tells its place, seeks from all three ends, and its end is empty."""
    file, content = stream

    assert file.read(5) == content[:5]
    assert file.seek(-3, os.SEEK_END) == len(content) - 3
    assert file.read(10) == content[-3:]
    assert file.read(1) == b""
    file.seek(10)
    file.seek(5, os.SEEK_CUR)
    assert (file.tell(), file.read(2)) == (15, content[15:17])
    assert file.readable()
    assert file.seekable()


def test_a_cut_connection_is_taken_up_where_it_was_cut(stream, served):
    """One read over four connections gives the whole file, and no byte is moved twice."""
    file, content = stream
    served.cut_after = 30_000

    assert file.readall() == content
    assert [first for _, first, _ in served.ranges] == [0, 30_000, 60_000, 90_000]
    assert served.moved == len(content)


def test_a_hub_that_knows_no_ranges_is_read_all_the_same(stream, served):
    """What comes before the wanted bytes is thrown away."""
    file, content = stream
    served.knows_ranges = False

    file.seek(500)

    assert file.read(100) == content[500:600]


def test_a_connection_that_brings_nothing_is_given_up(stream, served, monkeypatch):
    """After the last wait the error says that the same command goes on."""
    monkeypatch.setattr(hub, "WAITS_S", (0.0, 0.0))
    served.dies_after = 1000

    with pytest.raises(Unreachable, match=r"was lost 3 times.*the same command goes on"):
        stream[0].readall()

    assert served.moved == 1000


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_another_size_than_listed_is_refused(stream, served, knows_ranges):
    """A mirror that mixes two versions of a file is found out, whether it knows ranges or not."""
    served.knows_ranges = knows_ranges
    (served.folder / "train.jsonl").write_bytes(b"short")

    with pytest.raises(DataError, match="lists 100000 bytes and sends 5"):
        stream[0].read(3)


def test_other_bytes_than_asked_for_are_refused(stream, served):
    """A range that begins elsewhere would put wrong rows into the file."""
    served.knows_starts = False
    stream[0].seek(500)

    with pytest.raises(DataError, match=r"sends 'bytes 0-509/100000' when it is asked for what begins at byte 500"):
        stream[0].read(10)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (-1, Unreachable, "does not answer as a hub"),
        (10**15, DataError, r"README\.md: the hub lists 1000000000000000 bytes and sends 5"),
    ],
)
def test_a_listed_size_is_not_believed(served, size, error, message):
    """A card of less than nothing or of a petabyte is refused before memory is asked for."""
    (served.folder / "README.md").write_text("# Hi\n")
    served.listed["README.md"] = size

    with pytest.raises(error, match=message):
        open_set(REPO, endpoint=served.url)


def test_a_gated_set_names_the_page_and_the_token(served):
    """Where to accept the terms, and what to set then."""
    served.gated = True

    with pytest.raises(DataError) as caught:
        open_set(REPO, endpoint=served.url)

    assert f"accept them on {served.url}/datasets/{REPO}, then set HF_TOKEN" in str(caught.value)


def test_a_private_set_opens_with_the_token(served, monkeypatch):
    """With another the set looks missing, and the error names both the spelling and the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    served.token = "hf_secret"
    with pytest.raises(UsageError, match=r"has no such data set, or it is private; check the spelling.*HF_TOKEN"):
        open_set(REPO, endpoint=served.url)

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = open_set(REPO, endpoint=served.url)

    assert found.open(found.splits["train"].files[0], lambda count: None).read(8) == b'{"n": 0}'


@pytest.mark.parametrize(
    ("repo", "options", "error", "message"),
    [
        ("kopi/other", {}, UsageError, "kopi/other: .* has no such data set"),
        (REPO, {"revision": "v9"}, UsageError, "has no such revision; name a branch"),
        ("a/b/c", {}, UsageError, "a/b/c: is no name of a data set; write OWNER/NAME"),
        (REPO, {"config": "defualt"}, UsageError, "no configuration 'defualt'; did you mean 'default'"),
        (REPO, {"endpoint": "http://127.0.0.1:1"}, Unreachable, "cannot be reached: .*set HF_ENDPOINT to a mirror"),
        (REPO, {"endpoint": "http://127.0.0.1:port"}, Unreachable, "cannot be reached: .*port"),
    ],
)
def test_what_is_not_there_is_named(served, repo, options, error, message):
    """A repository, a revision, a configuration, the hub itself: each with the way on."""
    with pytest.raises(error, match=message):
        open_set(repo, **{"endpoint": served.url} | options)


def test_an_unknown_split_is_refused_with_the_near_one(served):
    """The error proposes the split that was meant."""
    with pytest.raises(UsageError, match="no split 'trian'; did you mean 'train'"):
        open_set(REPO, endpoint=served.url).chosen(("trian",))


def test_several_configurations_want_a_choice(served):
    """The error lists them; one by name is taken; a default by the card is taken and said."""
    for language in ("en", "fr"):
        (served.folder / language).mkdir()
        (served.folder / language / "train.jsonl").write_text("{}\n")
    (served.folder / "train.jsonl").unlink()

    with pytest.raises(UsageError, match="has 2 configurations: en, fr; choose one with --config"):
        open_set(REPO, endpoint=served.url)
    assert open_set(REPO, config="fr", endpoint=served.url).splits["train"].files[0].path == "fr/train.jsonl"

    configs = "".join(
        f"- {{config_name: {name}, data_dir: {name}, default: {name == 'fr'}}}\n" for name in ("en", "fr")
    )
    (served.folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    found = open_set(REPO, endpoint=served.url)

    assert found.config == "fr"
    assert found.notes == ["configuration fr, the default of en, fr; --config takes another"]


def test_a_configuration_that_cannot_be_read_stands_in_nobodys_way(served):
    """The card's error is raised for that configuration, and for the set only when it is the default."""
    images, text = "{config_name: images, data_files: '*.tar'", "{config_name: text, data_files: train.jsonl}"
    card = served.folder / "README.md"
    card.write_text(f"---\nconfigs:\n- {images}}}\n- {text}\n---\n")

    assert open_set(REPO, config="text", endpoint=served.url).splits["train"].size == 27
    with pytest.raises(UsageError, match="has 2 configurations: text, images"):
        open_set(REPO, endpoint=served.url)
    with pytest.raises(DataError, match=r"README\.md: no data file matches '\*\.tar'"):
        open_set(REPO, config="images", endpoint=served.url)
    card.write_text(f"---\nconfigs:\n- {images}, default: true}}\n- {text}\n---\n")
    with pytest.raises(DataError, match=r"README\.md: no data file matches '\*\.tar'"):
        open_set(REPO, endpoint=served.url)


def test_names_of_the_hub_cannot_speak_to_the_terminal(served):
    """Configurations and paths are spelled out in notes and errors."""
    owned = r'{config_name: "\e]0;owned\a", data_files: train.jsonl'
    card = served.folder / "README.md"
    card.write_text(f"---\nconfigs:\n- {owned}, default: true}}\n- {{config_name: b, data_dir: b}}\n---\n")
    (served.folder / "b").mkdir()
    (served.folder / "b" / "\x1b[2J.jsonl").write_text("{}\n")

    assert open_set(REPO, endpoint=served.url).notes == [
        r"configuration \x1b]0;owned\x07, the default of \x1b]0;owned\x07, b; --config takes another"
    ]
    with pytest.raises(UsageError, match=r"did you mean '\\x1b\]0;owned\\x07'"):
        open_set(REPO, config="]0;owned", endpoint=served.url)
    found = open_set(REPO, config="b", endpoint=served.url)
    (served.folder / "b" / "\x1b[2J.jsonl").write_text("{1: 2}\n")
    with pytest.raises(DataError, match=r"^kopi/chats/b/\\x1b\[2J\.jsonl: the hub lists 3"):
        found.open(found.splits["train"].files[0], lambda count: None).read(1)


def test_a_set_without_data_and_a_broken_card_are_refused(served):
    """The first names the converted branch, the second the card."""
    (served.folder / "README.md").write_text("---\nconfigs: 3\n---\n")
    with pytest.raises(DataError, match=r"kopi/chats/README\.md: its head cannot be understood"):
        open_set(REPO, endpoint=served.url)

    (served.folder / "README.md").unlink()
    (served.folder / "train.jsonl").rename(served.folder / "train.py")
    with pytest.raises(DataError, match="holds no data file that we read; try --revision refs/convert/parquet"):
        open_set(REPO, endpoint=served.url)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (200, "does not answer as a hub; check HF_ENDPOINT"),
        (404, "answers: .*404.*; check the name, and HF_ENDPOINT"),
        (503, "answers: .*503.*; try again later"),
    ],
)
def test_an_address_that_is_no_hub_is_named(tmp_path, status, message):
    """A page to log in on answers 200 with HTML, a mirror that lacks a set may say no more than 404."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(Unreachable, match=message):
            open_set(REPO, endpoint=address)
        server.shutdown()


def test_offline_mode_is_named(tmp_path):
    """The command ends with 1 and one line that says which variable keeps the hub away."""
    command = [sys.executable, "-m", "penala", "data", "download", REPO, "--out", str(tmp_path / "out")]

    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr == (
        f"error: {REPO}: HF_HUB_OFFLINE keeps the hub away; unset HF_HUB_OFFLINE, or use files that are here already\n"
    )
    assert not (tmp_path / "out").exists()
