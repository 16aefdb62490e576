"""Look for what is broken in a workspace, and say how to mend it. Nothing is changed."""

import os
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from penala.errors import WorkspaceError
from penala.workspace import services, shim
from penala.workspace.artifacts import ENVIRONMENT, digest_of, environment_id
from penala.workspace.events import ENDED, RUNNER_LOCK
from penala.workspace.filesystem import problem
from penala.workspace.garbage import artifacts, digests_in, thin_jobs
from penala.workspace.store import EndpointRow, EventRow, JobSummary, Store

Level: TypeAlias = Literal["error", "warning"]
LITTLE_BYTES = 1 << 30
_STARTING_S = 10.0  # a job that was just made may not have its runner yet
_CLOCK_S = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is broken (error), or that a person should know (warning)."""

    level: Level
    check: str
    what: str
    where: str
    fix: str


def examine(workspace: Path, *, deep: bool = False) -> dict[str, Any]:
    """Return the names of the checks that were made and what they found; `healthy` when no finding is an error.

    `deep` also reads every artifact and compares it with its digest.
    """
    if found := list(_database(workspace / "penala.db")):  # nothing can be asked of it
        return _report(workspace, ["database"], found)
    try:
        store = Store(workspace / "penala.db")
    except WorkspaceError as error:
        finding = Finding("error", "database", error.what, str(error.where), error.fix or "mend that first")
        return _report(workspace, ["database"], [finding])
    with store:
        checks: dict[str, Callable[[], Iterator[Finding]]] = {
            "file system": lambda: _file_system(workspace),
            "disk": lambda: _disk(workspace),
            "clock": lambda: _clock(store),
            "artifacts": lambda: _artifacts(store, workspace),
            "jobs": lambda: _jobs(store, workspace),
            "processes": lambda: _processes(workspace),
            "endpoints": lambda: _endpoints(store, workspace),
            "mlflow": lambda: _mlflow(workspace),
            "environment": lambda: _environment(store),
        }
        if deep:
            checks["content"] = lambda: _content(workspace)
        found = [finding for check in checks.values() for finding in check()]
    return _report(workspace, ["database", *checks], found)


def _report(workspace: Path, checks: list[str], found: list[Finding]) -> dict[str, Any]:
    return {
        "folder": str(workspace),
        "healthy": all(finding.level != "error" for finding in found),
        "checks": checks,
        "findings": [asdict(finding) for finding in found],
    }


def _database(path: Path, name: str = "database", fix: str = "put back a copy of it") -> Iterator[Finding]:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30.0)) as db:
            said = [row[0] for row in db.execute("pragma integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        said = [str(error)]
    if said != ["ok"]:
        yield Finding("error", name, f"is damaged ({'; '.join(said)})", str(path), fix)


def _file_system(workspace: Path) -> Iterator[Finding]:
    if (refusal := problem(workspace)) is not None:
        yield Finding("error", "file system", refusal.what, str(workspace), "move the folder to a local disk")


def _disk(workspace: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(workspace).free
    if free < LITTLE_BYTES:
        fix = "`penala workspace gc --jobs-older-than DAYS` frees what old jobs left"
        yield Finding("warning", "disk", f"only {free / 1e6:,.0f} MB are free", str(workspace), fix)
    for folder in (workspace, workspace / "artifacts", workspace / "jobs"):
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Finding("error", "disk", "cannot be written", str(folder), "make it a writable folder again")


def _clock(store: Store) -> Iterator[Finding]:
    newest = store.find(JobSummary, order="created desc", limit=1)
    if newest and newest[0].created > time.time() + _CLOCK_S:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest[0].created))
        what = f"was made in the future, {when}: the clock was put back"
        yield Finding("warning", "clock", what, f"job {newest[0].name}", "set the clock; lists may be out of order")


def _artifacts(store: Store, workspace: Path) -> Iterator[Finding]:
    """Look for what rows name in artifacts/ and that is gone; each is told once, with the first that needs it."""
    told: set[str] = set()
    for level, where, paths, fix in _needs(store):
        for path in paths:
            if path not in told and not (workspace / path).exists():
                told.add(path)
                yield Finding(level, "artifacts", f"{path} is gone", where, fix)


def _needs(store: Store) -> Iterator[tuple[Level, str, list[str], str]]:
    """Yield (level, who, what paths of the workspace, how to mend it when one is gone)."""
    again = "`penala jobs rerun {} --force-rerun` makes it again"
    for name, version, path, job in store.sql("select name, version, path, job from models"):
        yield "error", f"model {name}:{version}", [path], again.format(job) if job else "register it again"
    for name, version, path in store.sql("select name, version, path from data"):
        yield "error", f"data asset {name}:{version}", [path], "put it back, or add the data under a new version"
    for name, version, path in store.sql("select name, version, path from components"):
        yield "error", f"component {name}:{version}", [path], "put it back, or add it again under a new version"
    ended = {row.name: row.status in ENDED for row in store.find(JobSummary)}
    thin = thin_jobs(store)
    for job, step, outputs in store.sql("select job, name, outputs from steps where status = 'Completed'"):
        if job not in thin:
            level: Level = "warning" if ended.get(job) else "error"
            yield level, f"job {job}, step {step}", _paths(outputs), again.format(job)
    for job, step, outputs in store.sql("select job, step, outputs from cache"):
        fix = "`penala workspace gc` forgets it, and the step runs again"
        yield "warning", f"what {job}/{step} left for reuse", _paths(outputs), fix


def _paths(outputs: str | None) -> list[str]:
    return [f"artifacts/{digest}" for digest in sorted(digests_in([outputs]))]


def _jobs(store: Store, workspace: Path) -> Iterator[Finding]:
    now = time.time()
    for row in store.sql(f"select name, status, created from jobs where status not in {ENDED}"):
        if now - row["created"] > _STARTING_S and not shim.held(workspace / "jobs" / row["name"] / RUNNER_LOCK):
            fix = f"`penala jobs stream {row['name']}` goes on with it, `penala jobs cancel {row['name']}` ends it"
            yield Finding("error", "jobs", f"is {row['status']}, and no runner has it", f"job {row['name']}", fix)


def _processes(workspace: Path) -> Iterator[Finding]:
    """Look for processes of attempts whose shim is dead."""
    marker = f"{shim.MARKER}=".encode()
    found: dict[Path, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or somebody else's
        for entry in environment:
            if entry.startswith(marker):
                folder = Path(os.fsdecode(entry[len(marker) :]))
                if folder.is_relative_to(workspace) and not shim.alive(folder):
                    found.setdefault(folder, []).append(process.name)
    for folder, pids in found.items():
        what = f"processes {', '.join(sorted(pids))} outlived their shim"
        yield Finding("error", "processes", what, str(folder), f"`kill {' '.join(sorted(pids))}`")


def _endpoints(store: Store, workspace: Path) -> Iterator[Finding]:
    rows = store.find(EndpointRow)
    if rows and not shim.held(workspace / "supervisor.lock"):
        names = ", ".join(row.name for row in rows)
        what = f"nobody keeps the endpoints {names} up"
        yield Finding("error", "endpoints", what, str(workspace), "`penala endpoints list` starts what does")
    for keys in workspace.glob("endpoints/*/keys.*"):
        mode = stat.S_IMODE(keys.stat().st_mode)
        if mode & 0o077:
            what = f"has mode {mode:o}: others on this machine may read the keys"
            fix = f"`chmod 600 {keys}`, then `penala endpoints regenerate-key {keys.parent.name}` for both keys"
            yield Finding("error", "endpoints", what, str(keys), fix)
    for row in rows:
        keys = services.endpoint_folder(workspace, row.name) / "keys.json"
        if row.state != services.DELETING and not keys.exists():
            fix = f"`penala endpoints delete {row.name}`, then deploy it again"
            yield Finding("error", "endpoints", "its keys are gone", f"endpoint {row.name}", fix)


def _mlflow(workspace: Path) -> Iterator[Finding]:
    path = workspace / "mlflow.db"
    if path.exists():
        yield from _database(path, "mlflow", "move it away: the next job makes a new one, without the old runs")


def _environment(store: Store) -> Iterator[Finding]:
    last = store.find(EventRow, subject=ENVIRONMENT, order="at desc", limit=1)
    if last and last[0].text != environment_id():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last[0].at))
        what = f"is not the one that jobs were made with since {when}"
        fix = "nothing to mend: steps run again instead of being reused"
        yield Finding("warning", "environment", what, sys.prefix, fix)


def _content(workspace: Path) -> Iterator[Finding]:
    for path in artifacts(workspace):
        if digest_of(path) != path.name:
            fix = f"`rm -r {path}`, and run again what needs it: `penala workspace doctor` then says what"
            yield Finding("error", "content", "is not what it was when it was written", str(path), fix)
