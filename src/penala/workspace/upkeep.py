"""Look after a workspace's disk: say what it holds, and remove what can go.

Removal is safe beside running jobs and after a crash. What nobody needs is found, and moved to trash/, inside one
exclusive transaction: a job that is about to reuse an artifact has either said so before, and keeps it, or finds it
gone and makes it again. A second look puts back what a row names all the same.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from penala.errors import WorkspaceError
from penala.workspace import shim
from penala.workspace.artifacts import CLAIM, CLAIM_S, remove
from penala.workspace.events import ENDED, RUNNER_LOCK
from penala.workspace.filesystem import MOUNTINFO, mount_of
from penala.workspace.garbage import OUTPUTS_GONE, Garbage, artifacts, digests_in, files, find_garbage, named_by, stats
from penala.workspace.store import CacheRow, EventRow, JobRow, JobSummary, StepRow, Store, explain

_DAY_S = 86400.0
_COUNTED = ("jobs", "models", "endpoints")


def status(store: Store, workspace: Path) -> dict[str, Any]:
    """Return where the workspace lies, what it holds, what its disk is used for, and what `collect` would free."""
    seen: set[tuple[int, int]] = set()
    return {
        "folder": str(workspace),
        **{name: store.sql(f"select count(*) from {name}")[0][0] for name in _COUNTED},
        "bytes": {path.name: _bytes([path], seen) for path in sorted(workspace.iterdir())},
        "artifacts": _bytes_by_use(store, workspace),
        "file_system": mount_of(workspace, MOUNTINFO.read_text(encoding="utf-8")).type,
        "free_bytes": shutil.disk_usage(workspace).free,
        "can_go": find_garbage(store, workspace).as_dict(workspace),
    }


def collect(
    store: Store, workspace: Path, *, older_than_days: float | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Remove what can go, and jobs that ended so long ago; return what that is, and the bytes that came free.

    With `dry_run` nothing is touched. Raises WorkspaceError when another process is at it.
    """
    ended_before = 0.0 if older_than_days is None else time.time() - older_than_days * _DAY_S
    if dry_run:
        return {"dry_run": True, **find_garbage(store, workspace, ended_before).as_dict(workspace)}
    try:
        with _alone(workspace):
            _put_back(store, workspace)  # what a killed predecessor moved
            with store.transaction():
                found = find_garbage(store, workspace, ended_before)
                _forget(store, found)
                found.artifacts = _throw_away(found.artifacts, workspace)
            _put_back(store, workspace)
            found.artifacts = [path for path in found.artifacts if path.exists()]
            report = found.as_dict(workspace)
            _remove_files(store, found, workspace)
            with contextlib.suppress(WorkspaceError):  # on a full disk, say
                store.compact()
    except OSError as error:
        raise explain(error, workspace) from None
    return {"dry_run": False, **report}


@contextlib.contextmanager
def _alone(workspace: Path) -> Iterator[None]:
    lock = shim.take(workspace / "gc.lock")
    if lock is None:
        raise WorkspaceError("another process is removing things", where=str(workspace), fix="wait until it is done")
    try:
        yield
    finally:
        os.close(lock)


def _forget(store: Store, found: Garbage) -> None:
    """Remove the rows of what goes."""
    for name in found.jobs:
        store.delete(StepRow, job=name)
        store.delete(EventRow, subject=f"job {name}")
        store.delete(JobRow, name=name)
    for name in found.thinned:
        store.insert(EventRow(f"job {name}", OUTPUTS_GONE))
    for key in found.cache:
        store.delete(CacheRow, key=key)
    store.sql("delete from events where subject = ? and at < ?", CLAIM, time.time() - CLAIM_S)


def _needed(store: Store) -> dict[str, set[str]]:
    """Return the digests that each kind of row names, the step cache last."""
    cached = digests_in(outputs for (outputs,) in store.sql("select outputs from cache"))
    return {**named_by(store), "later reuse": cached}


def _trash(workspace: Path) -> Path:
    trash = workspace / "trash"
    trash.mkdir(exist_ok=True)
    return trash


def _throw_away(paths: Sequence[Path], workspace: Path) -> list[Path]:
    """Move files or folders to the trash, each under its own name; return where they lie now."""
    thrown = [_trash(workspace) / path.name for path in paths]
    for path, target in zip(paths, thrown, strict=True):
        _remove(target)
        path.rename(target)
    return thrown


def _put_back(store: Store, workspace: Path) -> None:
    """Move from the trash what a row names: a crash may have undone the rows' removal, or a job been faster."""
    with store.transaction():
        thrown = list(_trash(workspace).iterdir())
        needed = set().union(*_needed(store).values()) if thrown else set()
        for path in thrown:
            home = workspace / "artifacts" / path.name
            if path.name in needed and not home.exists():
                path.rename(home)


def _remove_files(store: Store, found: Garbage, workspace: Path) -> None:
    """Remove what no row needs from the disk. Killed in here, it leaves files that the next one finds."""
    for name in found.jobs:
        _remove(workspace / "jobs" / name)
    for path in found.leftovers:
        _remove_leftover(store, path, workspace / "jobs")
    for log in found.logs:  # its writer appends, so that it goes on at the new end
        with contextlib.suppress(FileNotFoundError):  # its endpoint was deleted just now
            shutil.copyfile(log, f"{log}.1")
            os.truncate(log, 0)
    _remove(_trash(workspace))


def _remove_leftover(store: Store, path: Path, jobs: Path) -> None:
    """Remove a file or folder; one of a job only while nobody starts that again."""
    if not path.is_relative_to(jobs):
        _remove(path)
        return
    if not path.exists():  # it went with its job
        return
    job = path.relative_to(jobs).parts[0]
    lock = shim.take(jobs / job / RUNNER_LOCK)
    if lock is None:
        return
    try:
        row = store.get(JobSummary, name=job)
        if row is None or row.status in ENDED:
            _remove(path)
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # whoever wrote it has just removed it
        if path.is_dir() and not path.is_symlink():
            remove(path)
        else:
            path.unlink()


def _bytes_by_use(store: Store, workspace: Path) -> dict[str, int]:
    """Return the bytes of the artifacts, each counted for the first kind that names it."""
    seen: set[tuple[int, int]] = set()
    left = {path.name: path for path in artifacts(workspace)}
    used = {}
    for kind, digests in _needed(store).items():
        used[kind] = _bytes([left.pop(digest) for digest in sorted(digests & left.keys())], seen)
    return {**used, "nothing": _bytes(left.values(), seen)}


def _bytes(paths: Iterable[Path], seen: set[tuple[int, int]]) -> int:
    """Return the bytes of files and folders; a file with several names counts where it is seen first."""
    total = 0
    for stat in stats(files(paths)):
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_size
    return total
