"""What of a workspace's disk can go, because nothing needs it any more.

An artifact stays while a model, a data asset, a component, a deployment, a job, an entry of the step cache or a fresh
claim (`artifacts.claim`) names its digest. All jobs stay unless old ones are given up: one that ended before a given
time goes, with the cache entries that it made and nobody else's outputs need. A given-up job that a model or a data
asset came from stays without its outputs, for the lineage.
"""

import contextlib
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penala.workspace import shim
from penala.workspace.artifacts import CLAIM, CLAIM_S
from penala.workspace.events import ENDED, RUNNER_LOCK
from penala.workspace.store import JobSummary, StepRow, Store

OUTPUTS_GONE = "its outputs were removed by `penala workspace gc`"  # event of a job that stays without them
LONGEST_LOG_BYTES = 32 << 20
_NAMING = {
    "models": "select digest, path from models",
    "data assets": "select digest, path from data",
    "components": "select digest, path from components",
    "deployments": "select settings from deployments",
}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MENTION = re.compile(r"""["/]([0-9a-f]{64})(?=["/])""")  # in JSON or in a path
_HALF_WRITTEN = (
    "*.tmp",
    "endpoints/*/*.tmp",
    "endpoints/*/gateway/*.tmp",
    "endpoints/*/deployments/*/*/*.tmp",
    "jobs/*/*/attempt-*/*.json.*.tmp",  # no other: the folder is the command's own
    "artifacts/.*",
    "components/.adding-*",
    "cache/download-*",
    "cache/*/*.partial-*",
)
_LOGS = ("supervisor.log", "endpoints/*/gateway/log.txt", "endpoints/*/deployments/*/*/log.txt")


@dataclass(slots=True)
class Garbage:
    """What can go: whole jobs, the outputs of `thinned` ones, cache entries by their keys, and files."""

    jobs: list[str] = field(default_factory=list)
    thinned: list[str] = field(default_factory=list)
    cache: list[str] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)  # of what was broken off, or is done
    logs: list[Path] = field(default_factory=list)  # that have grown too long

    def as_dict(self, workspace: Path) -> dict[str, Any]:
        """Return the numbers, and the bytes that come free when all of it goes."""
        paths = {
            "jobs": [workspace / "jobs" / name for name in self.jobs],
            "artifacts": self.artifacts,
            "leftovers": self.leftovers,
            "logs": self.logs,
        }
        parts = {name: {"count": len(found), "bytes": _freed_bytes(found)} for name, found in paths.items()}
        total = sum(part["bytes"] for part in parts.values())
        return {"bytes": total, **parts, "thinned_jobs": len(self.thinned), "cache_entries": len(self.cache)}


def find_garbage(store: Store, workspace: Path, ended_before: float = 0.0) -> Garbage:
    """Return what can go; `ended_before` (seconds since 1970) gives up the jobs that had ended by then.

    Reads only. Whoever removes what is found calls it inside the transaction that removes it.
    """
    found, now = Garbage(), time.time()
    old = _given_up(store, workspace, ended_before)
    makers = {name for (name,) in store.sql("select job from models union select job from data")}
    found.jobs = [name for name in old if name not in makers]
    found.thinned = [name for name in old if name in makers - thin_jobs(store)]
    named = set().union(*named_by(store, without=old).values()) | _claimed(store, now)
    dropped = _named_by_jobs(store, old)
    there = {path.name: path for path in artifacts(workspace)}
    kept_jobs = {name for (name,) in store.sql("select name from jobs")} - set(old)
    kept: set[str] = set()
    for key, job, outputs in store.sql("select key, job, outputs from cache"):
        digests = digests_in([outputs])
        stays = digests <= there.keys() and (job in kept_jobs or digests <= named)
        (kept if stays else dropped).update(digests)
        if not stays:
            found.cache.append(key)
    found.artifacts = [
        path
        for digest, path in there.items()
        if digest not in named | kept and (digest in dropped or age_s(path, now) > CLAIM_S)
    ]
    copies = [
        path
        for path in _below(workspace, ["data/*", "manifests/*"])  # named by a digest, too
        if path.name.partition(".")[0] not in named and age_s(path, now) > CLAIM_S
    ]
    found.leftovers = [*_half_written(workspace, now), *_job_leftovers(store, workspace, found, now), *copies]
    found.logs = [log for log in _below(workspace, _LOGS) if _bytes_of(log) > LONGEST_LOG_BYTES]
    return found


def artifacts(workspace: Path) -> list[Path]:
    """List what lies in artifacts/ under a digest."""
    return [path for path in (workspace / "artifacts").iterdir() if _DIGEST.fullmatch(path.name)]


def digests_in(texts: Iterable[Any]) -> set[str]:
    """Return everything in columns of text that can be a digest."""
    return {found for text in texts if text for found in _MENTION.findall(f'"{text}"')}


def named_by(store: Store, without: Collection[str] = ()) -> dict[str, set[str]]:
    """Return the digests that each kind of row names; `without` some jobs, and those whose outputs are gone."""
    found = {
        kind: digests_in(cell for row in store.sql(statement) for cell in row) for kind, statement in _NAMING.items()
    }
    jobs = {name for (name,) in store.sql("select name from jobs")} - thin_jobs(store) - set(without)
    return {**found, "jobs": _named_by_jobs(store, jobs)}


def age_s(path: Path, now: float) -> float:
    """Return the seconds since something last happened to a file, or to a folder and all that it holds."""
    inside = (Path(parent, name) for parent, folders, names in os.walk(path) for name in (*folders, *names))
    return now - max((max(stat.st_mtime, stat.st_ctime) for stat in stats([path, *inside])), default=now)


def _given_up(store: Store, workspace: Path, ended_before: float) -> list[str]:
    """Return the jobs that ended before a time, without those that somebody is about to start again."""
    rows = store.sql(f"select name from jobs where status in {ENDED} and ended < ? order by created", ended_before)
    return [name for (name,) in rows if not shim.held(workspace / "jobs" / name / RUNNER_LOCK)]


def _claimed(store: Store, now: float) -> set[str]:
    rows = store.sql("select text from events where subject = ? and at > ?", CLAIM, now - CLAIM_S)
    return {digest for (digest,) in rows}


def thin_jobs(store: Store) -> set[str]:
    """Return the jobs whose outputs were given up before."""
    return {name for (name,) in store.sql("select substr(subject, 5) from events where text = ?", OUTPUTS_GONE)}


def _named_by_jobs(store: Store, jobs: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in jobs:  # one by one: a plan is long
        for row in store.sql("select spec, about, result from jobs where name = ?", name):
            found |= digests_in(row)
        for row in store.sql("select outputs from steps where job = ?", name):
            found |= digests_in(row)
    return found


def _half_written(workspace: Path, now: float) -> Iterator[Path]:
    """Yield what processes that died left under another name; what a living one writes is younger, or locked."""
    for path in _below(workspace, _HALF_WRITTEN):
        lock = path.with_name(f"{path.name.partition('.partial-')[0]}.lock")
        if age_s(path, now) > CLAIM_S and not shim.held(lock):
            yield path


def _job_leftovers(store: Store, workspace: Path, found: Garbage, now: float) -> Iterator[Path]:
    """Yield the folders of jobs that are no more, and what the ended steps of ended jobs did not hand over.

    While its job is not given up, a failed step keeps the working folder of its last attempt, for whoever looks for the
    reason, and the outputs that its next attempt could go on with.
    """
    jobs = {row.name: row.status for row in store.find(JobSummary)}
    for folder in _below(workspace, ["jobs/*"]):
        if folder.name not in jobs and age_s(folder, now) > CLAIM_S and not shim.held(folder / RUNNER_LOCK):
            yield folder
    for left in _below(workspace, ["jobs/*/*/outputs", "jobs/*/*/attempt-*/work"]):
        job, name, *inside = left.relative_to(workspace / "jobs").parts
        if jobs.get(job) not in ENDED or job in found.jobs or shim.held(workspace / "jobs" / job / RUNNER_LOCK):
            continue
        step = store.get(StepRow, job=job, name=name)
        if step is None or step.status == "Completed" or job in found.thinned or not _is_of_use(store, step, inside):
            yield left


def _is_of_use(store: Store, step: StepRow, inside: list[str]) -> bool:
    """Tell whether a part of a failed step's folder is the last attempt's, or what a next one goes on with."""
    if inside == ["outputs"]:
        return _is_resumable(store, step)
    return inside == [f"attempt-{step.attempt}", "work"]


def _is_resumable(store: Store, step: StepRow) -> bool:
    plan = "select json_extract(value, '$.resumable') from jobs, json_each(spec, '$.plan.steps') where jobs.name = ?"
    found = store.sql(f"{plan} and json_extract(value, '$.name') = ?", step.job, step.name)
    return any(resumable for (resumable,) in found)


def _below(workspace: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:  # not Path.glob, which fails for a folder that vanishes meanwhile
        yield from (workspace / name for name in glob.iglob(pattern, root_dir=workspace))


def _bytes_of(file: Path) -> int:
    return sum(stat.st_size for stat in stats([file]))


def _freed_bytes(paths: Iterable[Path]) -> int:
    """Return the bytes that come free with files and folders: those of files that have no name elsewhere."""
    names: Counter[tuple[int, int]] = Counter()
    sizes = {}
    for stat in stats(files(paths)):
        names[inode := (stat.st_dev, stat.st_ino)] += 1
        sizes[inode] = (stat.st_size, stat.st_nlink)
    return sum(size for inode, (size, links) in sizes.items() if names[inode] >= links)


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield every file of files and folders."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            yield from (Path(parent, name) for parent, _, names in os.walk(path) for name in names)
        else:
            yield path


def stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Yield what the disk knows of files and folders; what vanishes meanwhile is left out."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path.lstat()
