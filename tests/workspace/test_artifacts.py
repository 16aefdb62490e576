"""Digests: by content, pinned, and remembered only while a file is surely the same."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from penala.workspace.artifacts import Digests, digest, digest_of, environment_id
from penala.workspace.client import Workspace
from penala.workspace.store import DigestRow


def test_a_file_has_its_plain_sha256(tmp_path: Path) -> None:
    """What `sha256sum` prints."""
    (tmp_path / "a").write_bytes(b"abc")

    assert digest_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_digests_have_not_moved(tmp_path: Path) -> None:
    """Artifacts and cache entries on disk are found by these values: when one changes, every step runs again."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"abc")

    assert digest(["step/1", "é", [1, None]]).startswith("73674d6a")
    assert digest_of(tmp_path).startswith("76eb8e76")


def test_a_folder_is_its_paths_and_bytes(tmp_path: Path) -> None:
    """Times, order of creation, hard links and empty folders do not count; names and bytes do."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, ["a", "b"]), (two, ["b", "a"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    os.utime(two / "a", (1, 1))
    (two / "empty").mkdir()
    (two / "b").unlink()
    os.link(one / "b", two / "b")
    same = digest_of(one)

    assert digest_of(two) == same
    (two / "a").rename(two / "c")
    assert digest_of(two) != same
    (two / "c").rename(two / "a")
    (two / "a").write_text("x")
    assert digest_of(two) != same


def test_a_large_file_is_read_once_while_it_stays_the_same(workspace: Workspace, tmp_path: Path) -> None:
    """Its digest is remembered with size, time and inode, and forgotten with any of them."""
    digests, file = Digests(workspace.store), tmp_path / "large"
    file.write_bytes(b"a" * (1 << 20))
    hour_ago = time.time() - 3600
    os.utime(file, (hour_ago, hour_ago))
    first = digests(file)
    workspace.store.update(DigestRow, {"path": str(file)}, digest="remembered")

    assert first == digest_of(file)
    assert digests(file) == "remembered"
    file.write_bytes(b"b" * (1 << 20))
    assert digests(file) == digest_of(file)


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_fresh_or_small_file_is_always_read(workspace: Workspace, tmp_path: Path, size: int) -> None:
    """A file that may change again within the clock's resolution is not remembered, nor is one that costs nothing."""
    file = tmp_path / "fresh"
    file.write_bytes(b"a" * size)
    Digests(workspace.store)(file)

    assert workspace.store.find(DigestRow) == []


def test_the_environment_stays_the_same_within_an_installation() -> None:
    """Asked again, it answers the same."""
    assert environment_id.__wrapped__() == environment_id()


def test_what_python_compiles_is_no_content(tmp_path: Path) -> None:
    """An import inside an artifact leaves its digest as it is."""
    (tmp_path / "module.py").write_text("x = 1")
    before = digest_of(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.pyc").write_text("compiled at a time")

    assert digest_of(tmp_path) == before
