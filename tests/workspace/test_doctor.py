"""`penala workspace doctor`: every fault is named with its place and its remedy, and a whole workspace has none."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from penala.cli.main import cli
from penala.errors import WorkspaceError
from penala.workspace import doctor, filesystem, shim
from penala.workspace.artifacts import ENVIRONMENT, environment_id
from penala.workspace.client import Workspace
from penala.workspace.doctor import examine
from penala.workspace.models import register
from penala.workspace.plan import Plan
from penala.workspace.store import EndpointRow, EventRow, JobRow, StepRow

from .test_upkeep import outputs, run

TwoSteps = Callable[..., Plan]


@pytest.fixture
def job(workspace: Workspace, two_steps: TwoSteps) -> str:
    """Run a job whose result is registered as m:1."""
    made = run(workspace, two_steps())
    register(workspace.store, "m", "1", outputs(workspace, made)["join"].name, job=made)
    return made


def findings(workspace: Workspace, **options: Any) -> list[str]:
    """Return what the doctor says, a line a finding."""
    report = examine(workspace.folder, **options)
    assert report["healthy"] == all(finding["level"] != "error" for finding in report["findings"])
    keys = ("level", "check", "where", "what", "fix")
    return [" | ".join(finding[key] for key in keys) for finding in report["findings"]]


@pytest.mark.usefixtures("job")
def test_a_whole_workspace_has_no_finding(workspace: Workspace) -> None:
    """Also when every byte is read, and when Python has compiled a module inside an artifact."""
    compiled = next(workspace.artifacts.iterdir()) / "__pycache__"
    compiled.mkdir()
    (compiled / "x.pyc").write_bytes(b"x")

    assert findings(workspace, deep=True) == []


def test_a_damaged_database_is_named(workspace: Workspace) -> None:
    """Its pages are checked, and nothing more is asked of it."""
    workspace.store.sql("pragma wal_checkpoint(truncate)")
    path = workspace.folder / "penala.db"
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xff" * 8192 + data[16384:])

    (line,) = findings(workspace)
    assert line.startswith(f"error | database | {path} | is damaged (")


def test_a_newer_schema_is_named(workspace: Workspace) -> None:
    """The remedy is the store's own."""
    workspace.store.sql("pragma user_version = 99")

    assert "use the newer penala that made it" in findings(workspace)[0]


def test_missing_artifacts_are_named_once(workspace: Workspace, job: str) -> None:
    """Each with the one that needs it most, and the command that makes it again."""
    gone = outputs(workspace, job)
    for path in gone.values():
        shutil.rmtree(path)
    again = f"`penala jobs rerun {job} --force-rerun` makes it again"

    assert findings(workspace) == [
        f"error | artifacts | model m:1 | artifacts/{gone['join'].name} is gone | {again}",
        f"warning | artifacts | job {job}, step write | artifacts/{gone['write'].name} is gone | {again}",
    ]


def test_outputs_that_were_given_up_are_not_missed(workspace: Workspace, job: str) -> None:
    """What gc removed is no fault."""
    workspace.collect(older_than_days=0)

    assert not outputs(workspace, job)["write"].exists()
    assert findings(workspace) == []


def test_changed_content_is_found_when_asked_for(workspace: Workspace, job: str) -> None:
    """A flipped byte shows in its digest."""
    path = outputs(workspace, job)["write"]
    (path / "text").write_text("hullo")

    assert findings(workspace) == []
    assert findings(workspace, deep=True)[0].startswith(f"error | content | {path} | is not what it was")


def test_a_job_without_a_runner_is_named(workspace: Workspace, job: str) -> None:
    """One that looks alive and is not, unless it was made this moment; while somebody has it, it is fine."""
    workspace.store.update(JobRow, {"name": job}, status="Running", created=time.time() - 60)
    (line,) = findings(workspace)
    assert line.startswith(f"error | jobs | job {job} | is Running, and no runner has it | `penala jobs stream {job}`")

    lock = shim.take(workspace.jobs.folder / job / "runner.lock")
    assert lock is not None
    assert findings(workspace) == []
    os.close(lock)
    workspace.store.update(JobRow, {"name": job}, created=time.time())
    assert findings(workspace) == []


@pytest.fixture
def orphan(workspace: Workspace) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process as a step starts it, without its shim."""
    folder = workspace.folder / "jobs" / "j" / "s" / "attempt-1"
    folder.mkdir(parents=True)
    environment = {**os.environ, shim.MARKER: str(folder)}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
    while shim.MARKER.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes():
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def test_orphans_are_named(workspace: Workspace, orphan: subprocess.Popen[bytes]) -> None:
    """A process of an attempt whose shim is dead, with the way to end it; not one whose shim lives."""
    folder = workspace.folder / "jobs" / "j" / "s" / "attempt-1"
    what = f"processes {orphan.pid} outlived their shim"

    assert findings(workspace) == [f"error | processes | {folder} | {what} | `kill {orphan.pid}`"]
    lock = shim.take(folder / "alive")
    assert lock is not None
    assert findings(workspace) == []
    os.close(lock)


def test_endpoints_are_watched_and_their_keys_are_private(workspace: Workspace) -> None:
    """A dead supervisor, keys that others may read, and keys that are gone."""
    keys = workspace.folder / "endpoints" / "e" / "keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text("{}")
    keys.chmod(0o644)
    workspace.store.insert(EndpointRow("e", 20000, "Succeeded"))
    workspace.store.insert(EndpointRow("f", 20001, "Succeeded"))

    lines = findings(workspace)
    assert [line.split(" | ")[1:4] for line in lines] == [
        ["endpoints", str(workspace.folder), "nobody keeps the endpoints e, f up"],
        ["endpoints", str(keys), "has mode 644: others on this machine may read the keys"],
        ["endpoints", "endpoint f", "its keys are gone"],
    ]
    assert f"`chmod 600 {keys}`" in lines[1]


def test_the_machine_is_looked_at(workspace: Workspace, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little space, a clock that went back, another Python, and a disk that is not local are told."""
    monkeypatch.setattr(doctor, "LITTLE_BYTES", 1 << 62)
    workspace.store.update(JobRow, {"name": job}, created=time.time() + 3600)
    assert workspace.store.find(EventRow, subject=ENVIRONMENT)[0].text == environment_id()
    workspace.store.insert(EventRow(ENVIRONMENT, "another", time.time() + 1))
    mounts = workspace.folder / "mountinfo"
    mounts.write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(filesystem, "MOUNTINFO", mounts)

    lines = findings(workspace)
    assert [line.split(" | ")[:2] for line in lines] == [
        ["error", "file system"],
        ["warning", "disk"],
        ["warning", "clock"],
        ["warning", "environment"],
    ]


def test_mlflows_database_is_read(workspace: Workspace) -> None:
    """A file that is none is named; none is fine."""
    path = workspace.folder / "mlflow.db"
    sqlite3.connect(path).close()
    assert findings(workspace) == []
    path.write_bytes(b"no database" * 100)
    assert findings(workspace)[0].startswith(f"error | mlflow | {path} | is damaged (file is not a database)")


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 1)])
def test_the_command_exits_with_1_when_something_is_broken(
    workspace: Workspace, job: str, broken: bool, code: int
) -> None:
    """It says the same to a person and to a machine."""
    if broken:
        workspace.store.update(StepRow, {"job": job, "name": "join"}, outputs={"out": "0" * 64})
        workspace.store.update(JobRow, {"name": job}, status="Running", created=0.0)
    ran = CliRunner().invoke(cli, ["-w", str(workspace.folder), "workspace", "doctor"])

    assert ran.exit_code == code
    assert "database: fine" in ran.stdout
    assert ("error: job" in ran.stdout) is broken
    machine = CliRunner().invoke(cli, ["-w", str(workspace.folder), "workspace", "doctor", "--json"])
    assert machine.exit_code == code
    assert f'"healthy": {str(not broken).lower()}' in machine.stdout


def test_a_folder_without_a_workspace_is_refused(tmp_path: Path) -> None:
    """There is nothing to examine."""
    ran = CliRunner().invoke(cli, ["-w", str(tmp_path), "workspace", "doctor"])

    assert isinstance(ran.exception, WorkspaceError)
