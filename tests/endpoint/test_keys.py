import json
import os
import stat

import pytest

from penala.endpoint.keys import bearer_is_one_of, destroy_keys, new_key, read_keys, write_keys
from penala.errors import EndpointError

KEYS = {"primary_key": "first", "secondary_key": "second"}


def test_keys_come_back_as_they_were_written(tmp_path):
    """The file holds both and is for its owner alone."""
    write_keys(tmp_path / "keys.json", KEYS)

    assert read_keys(tmp_path / "keys.json") == KEYS
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_replaced_keys_leave_no_byte_behind(tmp_path):
    """The blocks of the old file, still held open here, are blank."""
    write_keys(tmp_path / "keys.json", KEYS)
    with open(tmp_path / "keys.json", "rb") as old:
        write_keys(tmp_path / "keys.json", {**KEYS, "primary_key": "third"})

        assert set(old.read()) == {0}
    assert read_keys(tmp_path / "keys.json")["primary_key"] == "third"
    assert os.listdir(tmp_path) == ["keys.json"]


def test_keys_that_are_replaced_while_they_are_read_are_read_again(tmp_path, monkeypatch):
    """A reader that opened the old file may find it blank."""
    path = tmp_path / "keys.json"
    write_keys(path, KEYS)
    new = {**KEYS, "primary_key": "third"}

    def replace_first(path, **options):
        monkeypatch.undo()
        with open(path, encoding="utf-8") as old:
            write_keys(path, new)
            return old.read()

    monkeypatch.setattr(type(path), "read_text", replace_first)

    assert read_keys(path) == new


def test_destroyed_keys_are_gone_with_an_interrupted_replacement(tmp_path):
    """Both files are blanked and removed; destroying twice is no error."""
    write_keys(tmp_path / "keys.json", KEYS)
    (tmp_path / "keys.new").write_text(json.dumps(KEYS))
    with open(tmp_path / "keys.json", "rb") as first, open(tmp_path / "keys.new", "rb") as second:
        destroy_keys(tmp_path / "keys.json")
        destroy_keys(tmp_path / "keys.json")

        assert set(first.read() + second.read()) == {0}
    assert os.listdir(tmp_path) == []


def test_missing_keys_say_what_to_do(tmp_path):
    """An endpoint that was half deleted names the way out."""
    with pytest.raises(EndpointError, match="delete and deploy it again"):
        read_keys(tmp_path / "keys.json")


def test_keys_are_long_and_never_the_same():
    """48 hexadecimal digits, a hundred times different."""
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) == 48


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (b"Bearer first", True),
        (b"bearer second", True),
        (b"Bearer  first", True),
        (b"Bearer third", False),
        (b"Bearer ", False),
        (b"Bearer", False),
        (b"", False),
        (b"first", False),
        (b"Basic first", False),
        (b"Bearer first, Bearer second", False),
        ("Bearer fïrst".encode(), False),
    ],
)
def test_only_a_bearer_of_one_of_the_keys_gets_in(header, allowed):
    """Either key opens; everything else does not."""
    assert bearer_is_one_of(header, KEYS) is allowed


def test_no_keys_open_nothing():
    """Without keys nobody gets in, the empty header included."""
    assert not bearer_is_one_of(b"Bearer ", {})
