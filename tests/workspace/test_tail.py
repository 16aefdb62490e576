"""After the steps: registration, deployment, score and the MLflow mirror, each done once and gone on with."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from penala.workspace.client import Workspace
from penala.workspace.events import Event
from penala.workspace.mlflow_mirror import alias
from penala.workspace.plan import Plan
from penala.workspace.store import JobRow, ModelRow
from penala.workspace.tail import Cancelled, Deploy, Register, Score, Tail, raised_when, reply_text

TwoSteps = Callable[..., Plan]
REGISTER = Register("toy-model", "result", tags={"colour": "red"}, properties={"n": 1})


def run(workspace: Workspace, plan: Plan, tail: Tail) -> tuple[str, list[Event]]:
    name = workspace.jobs.submit(plan, tail)
    workspace.jobs.start(name)
    return name, list(workspace.jobs.follow(name, poll_s=0.01))


def test_a_tail_survives_json() -> None:
    """What is stored with a job is the tail, to the last value."""
    tail = Tail(REGISTER, Deploy("end-point", "blue", {"port": 8000}), Score({"messages": []}), mlflow=False)

    assert Tail.from_json(json.loads(json.dumps(tail.to_json()))) == tail
    assert Tail.from_json(Tail().to_json()) == Tail()


def test_an_event_is_one_object_with_its_subject() -> None:
    """The step of a job and the optimizer step of a metric do not share a name."""
    metric = Event("metric", "finetune", {"name": "loss", "value": 0.5, "step": 10})

    assert metric.as_dict() == {"event": "metric", "step": "finetune", "name": "loss", "value": 0.5, "at_step": 10}
    assert Event("stage", "deploy", {"status": "started"}).as_dict()["stage"] == "deploy"


def test_an_output_is_registered_once(workspace: Workspace, two_steps: TwoSteps) -> None:
    """The version points at the artifact; the same content again is the same version, other content the next one."""
    tail = Tail(REGISTER, mlflow=False)
    first, events = run(workspace, two_steps("a"), tail)
    again, _ = run(workspace, two_steps("a"), tail)
    other, _ = run(workspace, two_steps("b"), tail)
    results = [workspace.jobs.result(name)["model"] for name in (first, again, other)]
    row = workspace.store.get(ModelRow, name="toy-model", version="1")

    assert results == [{"name": "toy-model", "version": version} for version in ("1", "1", "2")]
    assert row is not None
    assert workspace.folder / row.path == workspace.jobs.outputs(first)["result"]
    assert (row.job, row.tags, row.properties) == (first, {"colour": "red"}, {"n": 1})
    stages = [event for event in events if event.kind == "stage" and event.data["status"] == "completed"]
    assert [(stage.name, stage.data["version"]) for stage in stages] == [("register", "1")]


def test_what_has_its_result_is_not_done_again(workspace: Workspace, two_steps: TwoSteps) -> None:
    """A runner that was killed after the registration goes on behind it."""
    tail = Tail(REGISTER, mlflow=False)
    name, _ = run(workspace, two_steps(), tail)
    done = {"register": {"name": "toy-model", "version": "7", "digest": "d"}}
    workspace.store.update(JobRow, {"name": name}, status="Finalizing", result=done)
    while workspace.jobs.is_running(name):
        time.sleep(0.01)
    workspace.store.update(JobRow, {"name": name}, ended=None)
    workspace.jobs.start(name)
    list(workspace.jobs.follow(name, poll_s=0.01))

    assert workspace.jobs.result(name)["model"] == {"name": "toy-model", "version": "7"}


def test_a_tail_that_fails_fails_the_job_and_keeps_what_was_done(workspace: Workspace, two_steps: TwoSteps) -> None:
    """The error of the deployment is the job's; the version stays registered, and the steps stay done."""
    tail = Tail(REGISTER, Deploy("end-point", "blue"), Score({"messages": []}), mlflow=False)
    name, events = run(workspace, two_steps(), tail)
    result = workspace.jobs.result(name)

    assert result["status"] == "Failed"
    assert "holds no model" in result["error"]
    assert result["model"] == {"name": "toy-model", "version": "1"}
    assert (result["endpoint"], result["reply"]) == (None, None)
    assert {step.status for step in workspace.jobs.steps(name)} == {"Completed"}
    assert ("stage", "deploy", "started") in [(event.kind, event.name, event.data.get("status")) for event in events]


def test_a_cancel_is_raised_once_from_whatever_runs() -> None:
    """It interrupts a wait, gives the action time to tidy up, and leaves no timer behind."""
    asked = time.monotonic()
    tidied = []

    def wait_in_vain() -> None:
        with raised_when(lambda: True):
            try:
                time.sleep(30)
            finally:
                time.sleep(0.3)  # longer than until the next look
                tidied.append(True)

    with pytest.raises(Cancelled):
        wait_in_vain()

    assert tidied == [True]
    assert time.monotonic() - asked < 2
    with raised_when(lambda: False):
        time.sleep(0.25)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"output": "Hello"}, "Hello"),
        ({"output": ["Hello", "Bye"]}, "Hello"),
        ({"choices": [{"message": {"content": "Hello"}}]}, "Hello"),
        ({"output": []}, None),
        ("Hello", None),
    ],
)
def test_the_reply_is_text(answer: Any, text: str | None) -> None:
    """Whatever shape the endpoint answers in."""
    assert reply_text(answer) == text


@pytest.mark.parametrize(("version", "name"), [("1", "version-1"), ("2024.1:a", "version-2024-1-a")])
def test_an_alias_is_one_that_mlflow_takes(version: str, name: str) -> None:
    """MLflow reserves v1 and refuses dots."""
    assert alias(version) == name


@pytest.mark.slow
def test_a_job_stands_in_mlflow(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Job and steps are runs with parameters and curves, the model has our version as alias; reuse adds nothing."""
    script = """
        for n in (1, 2, 3): event(event="metric", name="loss", value=1 / n, step=n)
        event(event="figures", figures={"after": {"loss": 0.25}})
        open(args["out"] + "/text", "w").write("x")
    """
    plan = two_steps("hello", write=script)
    name, events = run(workspace, plan, Tail(REGISTER))
    run(workspace, plan, Tail(REGISTER))
    found = _asked_of_mlflow(workspace.folder)

    mirrored = [event.data["mirrored"] for event in events if "mirrored" in event.data]
    assert mirrored == [True], (workspace.jobs.folder / name / ".mlflow" / "attempt-1" / "log.txt").read_text()
    assert {run["name"] for run in found["runs"]} == {name, "write", "join"}
    runs = {run["name"]: run for run in found["runs"]}
    assert runs["write"]["params"] == {"text": "hello"}
    assert runs["write"]["parent"] == runs[name]["id"]
    for run_name in (name, "write"):
        assert runs[run_name]["loss"] == [[1, 1.0], [2, 0.5], [3, 1 / 3]]
        assert runs[run_name]["metrics"]["after.loss"] == 0.25
    assert found["versions"] == [{"ours": "1", "aliases": ["version-1"], "run": runs[name]["id"]}]


def _asked_of_mlflow(folder: Path) -> Mapping[str, Any]:
    """Return what MLflow itself says, in a process of its own: its import takes seconds and warns."""
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient("sqlite:///" + sys.argv[1] + "/mlflow.db")
runs = [
    {"name": r.info.run_name, "id": r.info.run_id, "params": r.data.params, "metrics": r.data.metrics,
     "parent": r.data.tags.get("mlflow.parentRunId"),
     "loss": [[m.step, m.value] for m in client.get_metric_history(r.info.run_id, "loss")]}
    for r in client.search_runs([e.experiment_id for e in client.search_experiments()])
]
versions = [
    {"ours": v.tags["penala.version"], "aliases": v.aliases, "run": v.run_id}
    for n in client.search_model_versions("name = 'toy-model'")
    for v in [client.get_model_version(n.name, n.version)]
]
print(json.dumps({"runs": runs, "versions": versions}))
"""
    ran = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    found: Mapping[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found
