"""A job in MLflow while it runs: a user's script logs into its own run, and no trouble of MLflow's fails a job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penala.workspace import shim
from penala.workspace.client import Workspace
from penala.workspace.mlflow_mirror import Mirror, tracking_uri
from penala.workspace.plan import Literal, Plan, Step
from penala.workspace.tail import Tail

pytestmark = pytest.mark.slow
ASK = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient("sqlite:///" + sys.argv[1] + "/mlflow.db")
print(json.dumps({
    r.info.run_name: {
        "id": r.info.run_id, "status": r.info.status, "parent": r.data.tags.get("mlflow.parentRunId"),
        "params": r.data.params, "experiment": client.get_experiment(r.info.experiment_id).name,
        "loss": [[m.step, m.value] for m in client.get_metric_history(r.info.run_id, "loss")],
    }
    for r in client.search_runs([e.experiment_id for e in client.search_experiments()])
}))
"""
LOG = (
    "python -c \"import mlflow; [mlflow.log_metric('loss', 1 / n, step=n) for n in (1, 2)]; mlflow.log_param('a', 1)\""
)


def step(name: str, command: str, **inputs: str) -> Step:
    literals = {key: Literal(text) for key, text in inputs.items()}
    return Step(name, name, name, "1", "", command, "", literals, {})


def start(workspace: Workspace, *steps: Step, **more: Any) -> str:
    plan = Plan("toy", "1", "Toy", steps, {}, slots=2, continue_on_step_failure=True, **more)
    name = workspace.jobs.submit(plan, Tail(), about={"experiment_name": "toys"})
    workspace.jobs.start(name)
    return name


def finish(workspace: Workspace, name: str) -> dict[str, Any]:
    """Follow a job to its end, wait for its mirror, and return what MLflow says of its runs."""
    for _ in workspace.jobs.follow(name, poll_s=0.02):
        pass
    Mirror(workspace.folder, name).wait()
    ran = subprocess.run([sys.executable, "-c", ASK, workspace.folder], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_a_script_logs_into_its_child_run(workspace: Workspace) -> None:
    """Its curve stands on the job's run too; a step that fails is FAILED there, and so is its job.

    A step's inputs are its run's params, unless the script says them itself, in other words perhaps.
    """
    name = start(workspace, step("a", LOG, a="1e0", b="2"), step("b", "bash -c 'echo $MLFLOW_RUN_ID; exit 3'"))
    found = finish(workspace, name)
    rows = {row.name: row for row in workspace.jobs.steps(name)}

    assert {run: found[run]["status"] for run in found} == {name: "FAILED", "a": "FINISHED", "b": "FAILED"}
    assert found["a"]["loss"] == found[name]["loss"] == [[1, 1.0], [2, 0.5]]
    assert found["a"]["params"] == {"a": "1", "b": "2"}
    assert {found[one]["parent"] for one in "ab"} == {found[name]["id"]} == {workspace.jobs.row(name).run}
    assert {one: found[one]["id"] for one in "ab"} == {one: rows[one].run for one in "ab"}
    assert list(workspace.jobs.logs(name, "b")) == [("b", f"{rows['b'].run}\n")]
    assert {run["experiment"] for run in found.values()} == {"toys"}


def test_what_a_killed_attempt_logged_is_no_result(workspace: Workspace, tmp_path: Path) -> None:
    """The run of a command job is the job's own, and has the curve of the attempt that counts."""
    once = f"test -e {tmp_path}/twice || (touch {tmp_path}/twice; kill -9 $PPID)"
    log = "mlflow.log_metric('loss', float(os.environ['PENALA_ATTEMPT']), step=0)"
    script = f"import mlflow, os, subprocess; {log}; subprocess.run(['bash', '-c', '{once}'])"
    found = finish(workspace, name := start(workspace, step("main", f'python -c "{script}"'), kind="command"))

    assert workspace.jobs.steps(name)[0].attempt == 2
    assert list(found) == [name]
    assert (found[name]["status"], found[name]["loss"]) == ("FINISHED", [[0, 2.0]])
    assert found[name]["id"] == workspace.jobs.row(name).run == workspace.jobs.steps(name)[0].run


def test_a_mirror_that_is_killed_goes_on(workspace: Workspace, tmp_path: Path) -> None:
    """Before the step's run is there and after it: the runs are the same ones, and nothing is logged twice."""
    wait = f"[time.sleep(0.05) for _ in iter(lambda: os.path.exists({str(tmp_path / 'go')!r}), True)]"
    script = f"import mlflow, os, time; mlflow.log_metric('loss', 1, step=1); {wait}"
    name = start(workspace, step("a", f'python -c "{script}"'))
    for moment in (lambda: True, lambda: workspace.jobs.steps(name)[0].run):
        until(lambda: shim.read_pids(latest(workspace, name)) and shim.alive(latest(workspace, name)))
        until(moment)
        os.kill((shim.read_pids(latest(workspace, name)) or {})["shim"], signal.SIGKILL)
    run = workspace.jobs.steps(name)[0].run
    (tmp_path / "go").touch()
    found = finish(workspace, name)

    assert (found["a"]["id"], found["a"]["status"], found["a"]["loss"]) == (run, "FINISHED", [[1, 1.0]])
    assert (found[name]["status"], found[name]["loss"]) == ("FINISHED", [[1, 1.0]])


def latest(workspace: Workspace, name: str) -> Path:
    folder = workspace.jobs.folder / name / ".mlflow"
    return max(folder.glob("attempt-*"), default=folder / "attempt-0")


def test_an_outage_fails_no_job_and_is_told(workspace: Workspace) -> None:
    """Where MLflow cannot start at all, a step runs without a run."""
    (workspace.folder / "mlflow.db").mkdir()
    name = start(workspace, step("a", "bash -c 'echo run $MLFLOW_RUN_ID'"))
    events = list(workspace.jobs.follow(name, poll_s=0.02))

    assert workspace.jobs.row(name).status == "Completed", workspace.jobs.result(name)["error"]
    assert list(workspace.jobs.logs(name)) == [("a", "run\n")]
    assert [event.data["text"] for event in events if event.kind == "note"] == [
        "MLflow did not start in time: what the step logs there is no run of this job"
    ]
    assert [event.data["mirrored"] for event in events if "mirrored" in event.data] == [False]


@pytest.mark.parametrize("early", [True, False], ids=["waiting for MLflow", "running"])
def test_a_cancel_ends_in_time_and_is_mirrored(workspace: Workspace, early: bool) -> None:
    """Within 2 s nothing of the job lives; MLflow has it as KILLED if it had it at all."""
    name = start(workspace, step("a", "bash -c 'sleep 1007; sleep 1007'"))
    if early:
        until(lambda: shim.read_pids(latest(workspace, name)))
    else:
        until(lambda: workspace.jobs.steps(name)[0].status == "Running")
    asked = time.monotonic()
    workspace.jobs.cancel(name)
    until(lambda: not workspace.jobs.is_running(name))
    took = time.monotonic() - asked

    assert not any(shim.alive(folder.parent) for folder in workspace.jobs.folder.glob(f"{name}/*/attempt-*/alive"))
    assert not shim.alive(latest(workspace, name))
    assert took < 5  # 2 s on a machine that does nothing else
    if not early:
        assert {run["status"] for run in finish(workspace, name).values()} == {"KILLED"}


@pytest.mark.parametrize("name", ["plain", "two words", "why?", "50%3Foff", "#1", "kopi-é"])
def test_the_store_lies_in_the_workspace_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    """As SQLAlchemy, with which MLflow opens it, reads the address."""
    from sqlalchemy.engine import make_url

    assert make_url(tracking_uri(tmp_path / name)).database == str(tmp_path / name / "mlflow.db")
