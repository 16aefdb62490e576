"""Content digests: of files and folders, and of the Python that steps run with."""

import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from penala.workspace.store import DigestRow, EventRow, Store

REMEMBERED_BYTES = 1 << 20  # smaller files are hashed faster than they are looked up
ENVIRONMENT = "environment"  # subject of an event: the environment id that jobs are made with since then
COMPILED = "__pycache__"
CLAIM = "artifact claimed"  # subject of an event
CLAIM_S = 3600.0  # how long a claim holds; what is younger than this is nobody's to remove
_UNSETTLED_S = 2.0  # a file written this recently may change again within the resolution of its time stamp


def digest(tagged: list[Any]) -> str:
    """Return the SHA-256 of a JSON value whose first element names its layout, e.g. ["step/1", ...]."""
    text = json.dumps(tagged, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path, digest_one: Callable[[Path], str] = digest_file) -> str:
    """Return the digest of a file (its SHA-256) or of a folder: its files' relative paths and bytes, nothing else.

    What Python compiles beside a module is no part of it: it appears whenever one is imported, and holds a time.
    """
    if not path.is_dir():
        return digest_one(path)
    return digest(["folder/1", [[name, digest_one(path / name)] for name in file_names(path)]])


def file_names(folder: Path) -> list[str]:
    """List the relative paths of all files below a folder, sorted, without what Python compiles."""
    return sorted(os.path.relpath(file, folder) for file in _walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        if COMPILED in folders:
            folders.remove(COMPILED)
        for name in names:
            yield os.path.join(parent, name)


class Digests:
    """Digests of input files, remembered in the store while size, time and inode stay the same."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, path: Path) -> str:
        """Return the digest of a file or folder, as `digest_of` does."""
        return digest_of(path, self._digest_one)

    def _digest_one(self, path: Path) -> str:
        status = path.stat()
        if status.st_size < REMEMBERED_BYTES:
            return digest_file(path)
        stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_dev}-{status.st_ino}"
        name = str(path.absolute())
        known = self._store.get(DigestRow, path=name, stamp=stamp)
        if known is not None:
            return known.digest
        found = digest_file(path)
        if time.time() - status.st_mtime > _UNSETTLED_S:
            self._store.insert(DigestRow(name, stamp, found), replace=True)
        return found


def claim(store: Store, found: str) -> bool:
    """Tell whether the artifact of a digest is there; if so, it stays for an hour, even if no row names it.

    For whoever is about to name it in a row of his own, in another transaction than this question.
    """
    store.insert(EventRow(CLAIM, found))
    return (store.path.parent / "artifacts" / found).exists()


def keep(store: Store, folder: Path) -> str:
    """Move a folder that lies in the workspace to artifacts/ under its digest, claimed; return the digest.

    Where that content is there already, the folder stays where it is.
    """
    loosen(folder)
    found = digest_of(folder)
    if not claim(store, found):
        sync_files(folder / name for name in file_names(folder))
        move(folder, store.path.parent / "artifacts" / found)
    return found


def keep_copy(store: Store, source: Path, *, without: str = "") -> str:
    """Copy a folder, or a file, to artifacts/ and return the digest; `without` is a pattern of names to leave out.

    An artifact is a folder: that of a file holds it under its name, which readers look at.
    """
    with tempfile.TemporaryDirectory(prefix=".copy-", dir=store.path.parent / "artifacts") as work:
        copy = Path(work) / "copy"
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(without))
        else:
            copy.mkdir()
            shutil.copyfile(source, copy / source.name)
        return keep(store, copy)


def move(source: Path, target: Path) -> None:
    """Move content to the place that its digest names, unless another process was faster with the same."""
    try:
        os.replace(source, target)
    except OSError:
        if not target.exists():
            raise


def loosen(folder: Path | str) -> None:
    """Let the owner write into a folder and all below it: the kernel neither moves nor empties a read-only one."""
    mode = os.lstat(folder).st_mode
    if not stat.S_ISDIR(mode):
        return
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(folder, mode | stat.S_IRWXU)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                loosen(entry.path)


def remove(folder: Path) -> None:
    """Remove a folder, also one that was made read-only."""
    loosen(folder)
    shutil.rmtree(folder)


def sync_files(files: Iterable[Path]) -> None:
    """Bring the bytes of files to the disk: what the database calls finished must survive a power cut."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def environment_id() -> str:
    """Return the digest of the Python and the installed distributions that steps run with."""
    return digest(["environment/1", sys.version, platform.machine(), installed()])


def installed() -> list[str]:
    """List the folders that tell of the installed distributions, sorted: NAME-VERSION.dist-info or .egg-info."""
    names = {name for folder in sys.path if os.path.isdir(folder) for name in os.listdir(folder)}
    return sorted(name for name in names if name.endswith((".dist-info", ".egg-info")))
