"""What `penala workspace status` and `gc` say and do: nothing that is needed goes, and what nobody needs does."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penala.errors import WorkspaceError
from penala.workspace import garbage, shim, upkeep
from penala.workspace.artifacts import claim, digest_of
from penala.workspace.client import Workspace
from penala.workspace.events import RUNNER_LOCK
from penala.workspace.models import register
from penala.workspace.plan import Plan
from penala.workspace.store import CacheRow, DeploymentRow, EventRow, JobRow, ModelRow, StepRow
from penala.workspace.tail import Tail
from penala.workspace.upkeep import collect

from .conftest import read_text

CHANGED = "open(args['out'] + '/text', 'w').write('changed')"
TwoSteps = Callable[..., Plan]


def run(workspace: Workspace, plan: Plan, status: str = "Completed") -> str:
    """Run a plan as a new job, until it has ended and its runner is gone; return its name."""
    jobs = workspace.jobs
    name = jobs.submit(plan, Tail(mlflow=False), continue_unfinished=False)
    jobs.start(name)
    assert [event.data.get("status") for event in jobs.follow(name, poll_s=0.01)][-1] == status
    while jobs.is_running(name):
        time.sleep(0.01)
    return name


def outputs(workspace: Workspace, job: str) -> dict[str, Path]:
    """Return step -> where its output lies."""
    rows = workspace.store.find(StepRow, job=job)
    return {row.name: workspace.artifacts / (row.outputs or {})["out"] for row in rows}


def put(workspace: Workspace, text: str) -> Path:
    """Make an artifact that nothing names."""
    made = workspace.artifacts / "new"
    made.mkdir()
    (made / "text").write_text(text)
    return made.rename(workspace.artifacts / digest_of(made))


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take everything as old enough, since the time of a folder's last change cannot be set."""
    monkeypatch.setattr(garbage, "CLAIM_S", -1.0)


@pytest.mark.usefixtures("_no_grace")
def test_nothing_that_is_named_goes(workspace: Workspace, two_steps: TwoSteps) -> None:
    """What a job, a model, a deployment or the step cache names stays, and a second job still reuses all of it."""
    job = run(workspace, two_steps())
    loose, cached, deployed = (put(workspace, text) for text in ("loose", "cached", "deployed"))
    workspace.store.insert(CacheRow("k", {"out": cached.name}, None, job, "write"))
    settings = {"serving": {"folder": f"{deployed}/model"}, "starting": None}
    workspace.store.insert(DeploymentRow("e", "blue", "m", "1", "Succeeded", settings))
    planned, found = workspace.collect(dry_run=True), workspace.collect()

    assert found["artifacts"] == planned["artifacts"] == {"count": 1, "bytes": len("loose")}
    assert (found["bytes"], found["jobs"]["count"], found["cache_entries"]) == (len("loose"), 0, 0)
    assert not loose.exists()
    assert all(path.exists() for path in (cached, deployed, *outputs(workspace, job).values()))
    again = run(workspace, two_steps())
    assert [row.reused_from for row in workspace.jobs.steps(again)] == [f"{job}/write", f"{job}/join"]


def test_what_is_young_or_claimed_stays(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact may be there before the row that names it: for an hour it stays; a claim gives it an hour more."""
    young = put(workspace, "young")
    assert workspace.collect()["artifacts"]["count"] == 0

    assert claim(workspace.store, young.name)
    assert not claim(workspace.store, "0" * 64)
    monkeypatch.setattr(garbage, "age_s", lambda path, now: 2 * 3600.0)
    assert workspace.collect()["artifacts"]["count"] == 0
    workspace.store.update(EventRow, {"text": young.name}, at=time.time() - 2 * 3600)
    assert workspace.collect()["artifacts"]["count"] == 1
    assert workspace.store.find(EventRow, text=young.name) == []


def test_old_jobs_go_with_all_that_only_they_need(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Rows, folder, cache entries and artifacts go; what a younger job needs of it stays and is still reused."""
    old = run(workspace, two_steps("same"))
    other = run(workspace, two_steps("other"))
    between = time.time()
    young = run(workspace, two_steps("same", join=CHANGED, join_more={"version": "2"}))
    gone, kept = outputs(workspace, old), outputs(workspace, young)
    days = (time.time() - between) / 86400
    said = workspace.collect(older_than_days=days, dry_run=True)
    assert Path(gone["join"]).exists()
    found = workspace.collect(older_than_days=days)

    assert found == {**said, "dry_run": False}
    assert (found["jobs"]["count"], found["artifacts"]["count"], found["cache_entries"]) == (2, 3, 3)
    assert [row.name for row in workspace.jobs.list()] == [young]
    assert [path.name for path in workspace.jobs.folder.iterdir()] == [young]
    assert gone["write"] == kept["write"]
    assert not gone["join"].exists()
    assert {path.name for path in workspace.artifacts.iterdir()} == {path.name for path in kept.values()}
    for table, column in (("steps", "job"), ("cache", "job"), ("events", "subject")):
        assert workspace.store.sql(f"select 1 from {table} where {column} like ?", f"%{other}%") == []
    again = run(workspace, two_steps("same"))
    assert [row.reused_from is None for row in workspace.jobs.steps(again)] == [False, True]


def test_the_job_of_a_model_keeps_its_row_and_its_logs(workspace: Workspace, two_steps: TwoSteps) -> None:
    """The version's artifact, its lineage and the job's logs stay; what else the job left goes, and it says so."""
    job = run(workspace, two_steps())
    made = outputs(workspace, job)
    register(workspace.store, "m", "1", made["join"].name, job=job)
    found = workspace.collect(older_than_days=0)

    assert (found["jobs"]["count"], found["thinned_jobs"], found["artifacts"]["count"]) == (0, 1, 1)
    assert read_text(made["join"]) == "HELLO"
    assert not made["write"].exists()
    assert list(workspace.jobs.logs(job)) == [("write", ""), ("join", "joined hello\n")]
    assert workspace.store.find(EventRow, subject=f"job {job}")[0].text == garbage.OUTPUTS_GONE
    assert made["write"].name[:12] in workspace.models.lineage("m:1")
    assert workspace.collect(older_than_days=0)["thinned_jobs"] == 0


def test_a_job_that_has_a_runner_is_not_given_up(workspace: Workspace, two_steps: TwoSteps) -> None:
    """A failed job that somebody is about to start again is left alone, and so is one that has not ended."""
    job, unfinished = run(workspace, two_steps()), workspace.jobs.submit(two_steps("x"), Tail(mlflow=False))
    lock = shim.take(workspace.jobs.folder / job / RUNNER_LOCK)
    assert lock is not None
    try:
        assert workspace.collect(older_than_days=0)["jobs"]["count"] == 0
    finally:
        os.close(lock)
    assert workspace.collect(older_than_days=0)["jobs"]["count"] == 1
    assert [row.name for row in workspace.jobs.list()] == [unfinished]


@pytest.mark.usefixtures("_no_grace")
def test_what_broken_off_work_left_goes(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Half-written files, half-filled folders, folders of jobs that are no more; nothing that is locked."""
    job = run(workspace, two_steps())
    folder = workspace.folder
    left = [
        folder / "config.json.123.tmp",
        folder / "penala.db.schema-1.bak.123.tmp",
        folder / "jobs" / job / "write" / "attempt-1" / "cmd.json.123.tmp",
        folder / "jobs" / job / "write" / "outputs" / "out" / "half",
        folder / "jobs" / "no-more" / "step" / "log.txt",
        folder / "cache" / "models" / "m.partial-abc" / "model" / "weights",
        folder / "artifacts" / ".data-abc" / "copy" / "x",
        folder / "data" / f"{'a' * 64}.123" / "00000-x",
        folder / "manifests" / f"{'a' * 64}.json",
    ]
    mine = folder / "jobs" / job / "write" / "attempt-1" / "mine.tmp"
    held = folder / "cache" / "models" / "held.partial-abc" / "weights"
    for path in (*left, mine, held):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
    lock = shim.take(folder / "cache" / "models" / "held.lock")
    assert lock is not None
    found = workspace.collect()
    os.close(lock)

    assert found["leftovers"] == {"count": len(left), "bytes": 5 * len(left)}
    assert [path for path in left if path.exists()] == []
    assert not (folder / "jobs" / "no-more").exists()
    assert mine.exists()
    assert held.exists()


def test_what_cannot_be_removed_does_not_keep_its_job_locked(
    workspace: Workspace, two_steps: TwoSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job can be started again, also while the program that collected lives on."""
    job = run(workspace, two_steps())
    left = workspace.jobs.folder / job / "write" / "outputs"
    left.mkdir()

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refused)
    with pytest.raises(WorkspaceError, match="cannot be written"):
        workspace.collect()
    assert left.exists()
    assert not workspace.jobs.is_running(job)


@pytest.mark.parametrize("resumable", [False, True])
def test_a_failed_resumable_step_keeps_what_it_goes_on_with(
    workspace: Workspace, two_steps: TwoSteps, resumable: bool
) -> None:
    """Its checkpoints stay as long as its job; those of a step that begins anew go. Its last working folder stays."""
    more = {"tags": {"resumable": "true"}} if resumable else {}
    plan = two_steps(write="open(args['out'] + '/text', 'w').write('half'); sys.exit(1)", write_more=more)
    assert plan.steps[0].resumable is resumable
    job = run(workspace, plan, "Failed")
    folder = workspace.jobs.folder / job / "write"
    workspace.store.update(StepRow, {"job": job, "name": "write"}, attempt=2)
    for attempt in (1, 2):
        (folder / f"attempt-{attempt}" / "work").mkdir(parents=True, exist_ok=True)

    workspace.collect()
    assert (folder / "outputs").exists() is resumable
    assert [(folder / f"attempt-{attempt}" / "work").exists() for attempt in (1, 2)] == [False, True]
    workspace.collect(older_than_days=0)
    assert not folder.exists()


@pytest.mark.usefixtures("_no_grace")
def test_long_logs_are_cut(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor's or an endpoint's log begins anew; its end so far is kept beside it, and its writer goes on."""
    monkeypatch.setattr(garbage, "LONGEST_LOG_BYTES", 10)
    log = workspace.folder / "supervisor.log"
    with open(log, "ab") as writer:
        writer.write(b"a" * 20)
        writer.flush()
        workspace.collect()
        writer.write(b"b")

    assert log.read_bytes() == b"b"
    assert Path(f"{log}.1").read_bytes() == b"a" * 20


@pytest.mark.usefixtures("_no_grace")
def test_only_bytes_that_come_free_are_counted(workspace: Workspace) -> None:
    """A file that has another name elsewhere frees nothing; status counts it once."""
    loose = put(workspace, "weights")
    (workspace.cache / "models").mkdir()
    os.link(loose / "text", workspace.cache / "models" / "weights")
    status = workspace.status()

    assert status["artifacts"]["nothing"] == len("weights")
    assert status["bytes"]["artifacts"] + status["bytes"]["cache"] == len("weights")
    assert status["can_go"]["artifacts"] == {"count": 1, "bytes": 0}
    assert workspace.collect()["bytes"] == 0


def test_a_cache_entry_whose_artifact_is_gone_goes(workspace: Workspace, two_steps: TwoSteps) -> None:
    """It could never be reused."""
    job = run(workspace, two_steps())
    path = outputs(workspace, job)["join"]
    path.rename(workspace.folder / "elsewhere")

    assert workspace.collect()["cache_entries"] == 1
    assert [row.step for row in workspace.store.find(CacheRow)] == ["write"]


def test_one_at_a_time(workspace: Workspace) -> None:
    """A second one is refused while the first is at it."""
    lock = shim.take(workspace.folder / "gc.lock")
    assert lock is not None
    with pytest.raises(WorkspaceError, match="another process is removing things"):
        workspace.collect()
    os.close(lock)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from penala.workspace import upkeep
from penala.workspace.client import Workspace
def killed(*args, **options): os.kill(os.getpid(), signal.SIGKILL)
target, name, after = sys.argv[2].split("-")
owner = {"upkeep": upkeep, "shutil": shutil}[target]
real = getattr(owner, name)
def first(*args, **options):
    real(*args, **options)
    killed()
setattr(owner, name, first if after == "after" else killed)
with Workspace.open(sys.argv[1]) as workspace:
    workspace.collect(older_than_days=0)
"""
POINTS = ["upkeep-_forget-after", "upkeep-_throw_away-after", "upkeep-_remove_files-before", "shutil-rmtree-after"]


@pytest.mark.usefixtures("_no_grace")
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_collection_breaks_nothing(workspace: Workspace, two_steps: TwoSteps, point: str) -> None:
    """Killed anywhere, the model is whole, the same job runs, and the next collection ends what was begun."""
    job = run(workspace, two_steps())
    model = outputs(workspace, job)["join"]
    register(workspace.store, "m", "1", model.name, job=job)
    run(workspace, two_steps("gone"))
    ran = subprocess.run([sys.executable, "-c", KILLED, str(workspace.folder), point])
    assert ran.returncode == -signal.SIGKILL

    assert read_text(model) == "HELLO"
    again = run(workspace, two_steps())
    assert all(path.exists() for path in outputs(workspace, again).values())
    workspace.collect(older_than_days=0)
    assert [path.name for path in workspace.artifacts.iterdir()] == [model.name]
    assert [path.name for path in workspace.jobs.folder.iterdir()] == [job]
    assert not (workspace.folder / "trash").exists()


def test_what_a_killed_collection_had_thrown_away_comes_back(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Before anything is looked for: with its outputs in the trash, an entry of the cache would seem broken."""
    job = run(workspace, two_steps())
    cached = put(workspace, "cached")
    workspace.store.insert(CacheRow("k", {"out": cached.name}, None, job, "write"))
    (workspace.folder / "trash").mkdir()
    cached.rename(workspace.folder / "trash" / cached.name)

    assert workspace.collect()["cache_entries"] == 0
    assert read_text(cached) == "cached"


@pytest.mark.usefixtures("_no_grace")
def test_what_a_row_names_in_the_last_moment_comes_back(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever registers looks for the artifact before his row is written: a collection may come in between."""
    loose = put(workspace, "loose")
    throw_away = upkeep._throw_away

    def named_meanwhile(paths: list[Path], folder: Path) -> list[Path]:
        thrown = throw_away(paths, folder)
        workspace.store.insert(ModelRow("m", "1", loose.name, f"artifacts/{loose.name}"))
        return thrown

    monkeypatch.setattr(upkeep, "_throw_away", named_meanwhile)

    assert workspace.collect()["artifacts"]["count"] == 0
    assert read_text(loose) == "loose"


def test_jobs_and_collections_at_once(workspace: Workspace, two_steps: TwoSteps) -> None:
    """While old jobs are given up again and again, each new one ends with all of its outputs."""
    plan, over = two_steps(), threading.Event()
    collected: list[dict[str, Any]] = []

    def keep_collecting() -> None:
        with Workspace.open(workspace.folder) as mine:
            while not over.is_set():
                collected.append(collect(mine.store, mine.folder, older_than_days=0.3 / 86400))

    collector = threading.Thread(target=keep_collecting)
    collector.start()
    try:
        for number in range(12):
            job = run(workspace, plan)
            assert all(path.exists() for path in outputs(workspace, job).values()), f"job {number}"
            time.sleep(0.1 * (number % 5))
    finally:
        over.set()
        collector.join()

    assert sum(found["jobs"]["count"] for found in collected) > 3
    assert sum(found["artifacts"]["count"] for found in collected) > 3
    assert workspace.store.find(JobRow, status="Failed") == []
