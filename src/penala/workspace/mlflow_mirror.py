"""Mirror a job to MLflow: `python -m penala.workspace.mlflow_mirror WORKSPACE JOB`, once a job, in its own process.

MLflow's import costs seconds, so nothing else imports it. Its store is sqlite:///WORKSPACE/mlflow.db; `mlflow ui` works
on it. The job is a run, each of its steps a child run; the metrics of the steps stand on the job's run too. The model
version gets a version of MLflow's own numbering, with ours as tag `penala.version` and alias.
"""

import contextlib
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.workspace import shim
from penala.workspace.events import EventFile
from penala.workspace.plan import Literal, Plan, Step
from penala.workspace.store import JobRow, StepRow, Store

if TYPE_CHECKING:
    import subprocess

    from mlflow import MlflowClient

MIRROR_S = 300.0  # MLflow's first start makes its database: on a slow disk, a minute
METRICS_AT_ONCE = 1000  # of MLflow's log_batch
PARAMS_AT_ONCE = 100
LONGEST_PARAM = 6000
_SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # it would report to its makers, and wait for it


class Mirror:
    """The mirroring process of one job, under a shim of its own, so that a new runner finds it."""

    def __init__(self, workspace: Path, job: str) -> None:
        self.workspace = workspace
        self.job = job
        self.folder = workspace / "jobs" / job / "mlflow"
        self._child: subprocess.Popen[bytes] | None = None
        self._deadline = time.monotonic() + MIRROR_S

    def start(self) -> None:
        """Start the process, unless it lives or has ended well."""
        number = self._latest()
        last = self._attempt(number)
        end = shim.read_exit(last)
        if shim.alive(last) or (end is not None and end["rc"] == 0):
            return
        if number:
            shim.kill_leftovers(last)
        attempt = self._attempt(number + 1)
        attempt.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-P", "-m", "penala.workspace.mlflow_mirror", str(self.workspace), self.job]
        shim.write_json(attempt / "cmd.json", {"argv": argv, "env": _SILENT})
        self._child = shim.launch(attempt)
        self._deadline = time.monotonic() + MIRROR_S

    def wait(self) -> dict[str, Any]:
        """Wait for the process, MIRROR_S at most, and return how it ended.

        A failed mirror fails no job: the store knows all that MLflow would.
        """
        attempt = self._attempt(self._latest())
        while shim.alive(attempt):
            if self._child is not None:
                self._child.poll()
            if time.monotonic() > self._deadline:
                self.stop()
            time.sleep(0.05)
        end = shim.read_exit(attempt)
        code = None if end is None else end["rc"]
        return {"mirrored": code == 0, "log": str(attempt / "log.txt")}

    def stop(self) -> None:
        """End the process if it lives."""
        attempt = self._attempt(self._latest())
        if shim.alive(attempt):
            shim.stop(attempt)

    def _latest(self) -> int:
        return max((int(path.name.removeprefix("attempt-")) for path in self.folder.glob("attempt-*")), default=0)

    def _attempt(self, number: int) -> Path:
        return self.folder / f"attempt-{number}"


def main(workspace: Path, job: str) -> None:
    """Write a finished job into MLflow; what an interrupted mirror wrote before is replaced."""
    from mlflow import MlflowClient

    database = workspace / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # stays with the file: MLflow's 300 statements of a first start wait for the disk once each, not three times
        connection.execute("pragma journal_mode = wal")
    uri = f"sqlite:///{database}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    with Store(workspace / "penala.db") as store:
        row = store.get(JobRow, name=job)
        assert row is not None
        steps = store.find(StepRow, order="position", job=job)
    plan = Plan.from_json(row.spec["plan"])
    root = _mirror_runs(client, workspace, row, steps, plan)
    model = (row.result or {}).get("register")
    if model is not None:
        _mirror_model(client, workspace / "artifacts" / model["digest"], model, root)


def _mirror_runs(client: "MlflowClient", workspace: Path, job: JobRow, steps: list[StepRow], plan: Plan) -> str:
    """Write a run for the job and one for each step; return the id of the job's."""
    experiment = _experiment(client, plan.name, workspace)
    for old in client.search_runs([experiment], f"tags.`penala.job` = '{job.name}'"):
        client.delete_run(old.info.run_id)
    tags = {"penala.job": job.name, "penala.display_name": job.display_name}
    root: str = client.create_run(experiment, _millis(job.started), tags, run_name=job.name).info.run_id
    for row in steps:
        step = next(step for step in plan.steps if step.name == row.name)
        step_tags = {**tags, "penala.step": row.name, "mlflow.parentRunId": root}
        if row.reused_from:
            step_tags["penala.reused_from"] = row.reused_from
        run = client.create_run(experiment, _millis(row.started), step_tags, run_name=row.name).info.run_id
        _log_params(client, run, step)
        metrics = list(_metrics(workspace, row))
        for target in (run, root):
            _log_metrics(client, target, metrics, _millis(row.started))
        client.set_terminated(run, "FINISHED", _millis(row.ended))
    client.set_terminated(root, "FINISHED", int(time.time() * 1000))
    return root


def _experiment(client: "MlflowClient", name: str, workspace: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=(workspace / "mlartifacts").as_uri()))


def _log_params(client: "MlflowClient", run: str, step: Step) -> None:
    from mlflow.entities import Param

    params = [
        Param(name, value.text[:LONGEST_PARAM]) for name, value in step.inputs.items() if isinstance(value, Literal)
    ]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run, params=params[start : start + PARAMS_AT_ONCE])


def _log_metrics(client: "MlflowClient", run: str, metrics: list[tuple[str, float, int]], start_ms: int) -> None:
    from mlflow.entities import Metric

    # one millisecond apart: MLflow draws curves by step, but tells equal points apart by time
    entities = [Metric(name, value, start_ms + n, step) for n, (name, value, step) in enumerate(metrics)]
    for start in range(0, len(entities), METRICS_AT_ONCE):
        client.log_batch(run, metrics=entities[start : start + METRICS_AT_ONCE])


def _metrics(workspace: Path, row: StepRow) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step): the curve that the step reported (last word a point), then its figures."""
    job, step = (row.reused_from or f"{row.job}/{row.name}").split("/", 1)
    curve = {}
    for event in EventFile(workspace / "jobs" / job / step / "events.jsonl").read():
        if event["event"] == "metric":
            curve[event["name"], int(event.get("step", 0))] = float(event["value"])
    for (name, position), value in curve.items():
        yield name, value, position
    for name, value in _numbers(row.figures or {}):
        if name not in {known for known, _ in curve}:
            yield name, value, 0


def _numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested figures as before.loss, after.loss, ..."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _mirror_model(client: "MlflowClient", folder: Path, model: Mapping[str, str], run: str) -> None:
    """Write the model version into MLflow's registry, unless it is there."""
    from mlflow.exceptions import MlflowException

    name, version = model["name"], model["version"]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name = '{name}'")
    known = next((one for one in found if one.tags.get("penala.version") == version), None)
    tags = {"penala.version": version, "penala.digest": model["digest"]}
    number = (known or client.create_model_version(name, folder.as_uri(), run, tags)).version
    client.set_registered_model_alias(name, alias(version), number)


def alias(version: str) -> str:
    """Return the alias that a version has in MLflow, which reserves v1, v2, ... and knows neither dots nor colons."""
    return f"version-{re.sub(r'[^A-Za-z0-9_-]', '-', version)}"


def _millis(seconds: float | None) -> int:
    return int((seconds or time.time()) * 1000)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
