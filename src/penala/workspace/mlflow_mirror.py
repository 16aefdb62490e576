"""Mirror a job to MLflow: `python -m penala.workspace.mlflow_mirror WORKSPACE JOB`, once a job, in its own process.

MLflow's import costs seconds, so nothing else imports it. Its store is sqlite:///WORKSPACE/mlflow.db; `mlflow ui` works
on it. The job is a run, each of its steps a child run (the step of a command job is the job's own run); they are there
before a step of the user's starts, whose script logs into its run. What our steps report is logged as it comes, and
the metrics of completed steps stand on the job's run too. The model version gets a version of MLflow's own numbering,
with ours as tag `penala.version` and alias.

The process goes by the store alone, so it may be killed and started again at any moment: a run is known by its tags,
and a point of a curve that is there is not logged again.
"""

import contextlib
import re
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.workspace import shim
from penala.workspace.events import ENDED, RUNNER_LOCK, EventFile
from penala.workspace.plan import Literal, Plan, Step, feeders
from penala.workspace.store import JobRow, StepRow, Store

if TYPE_CHECKING:
    import subprocess

    from mlflow import MlflowClient
    from mlflow.entities import Metric

MIRROR_S = 300.0  # MLflow's first start makes its database: on a slow disk, a minute
PATIENCE_S = 90.0  # that steps wait for their runs
MOST_STARTS = 4  # in one runner's life
POLL_S = 0.2
ALONE_S = 60.0  # how long it waits for a new runner
METRICS_AT_ONCE = 1000  # of MLflow's log_batch
PARAMS_AT_ONCE = 100
LONGEST_PARAM = 6000
EXPERIMENT = "experiment.json"  # in the mirror's folder: {"id", "name"}
_STATES = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # it would report to its makers, and wait for it


class Mirror:
    """The mirroring process of one job, under a shim of its own, so that a new runner finds it."""

    def __init__(self, workspace: Path, job: str) -> None:
        self.workspace = workspace
        self.job = job
        self.folder = workspace / "jobs" / job / ".mlflow"  # no step has such a name
        self._child: subprocess.Popen[bytes] | None = None
        self._started: list[float] = []

    def start(self) -> None:
        """Start the process, unless it lives or was started too often."""
        last = self._latest()
        if shim.alive(self._attempt(last)) or len(self._started) >= MOST_STARTS:
            return
        if last:
            shim.kill_leftovers(self._attempt(last))
        attempt = self._attempt(last + 1)
        attempt.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-P", "-m", "penala.workspace.mlflow_mirror", str(self.workspace), self.job]
        shim.write_json(attempt / "cmd.json", {"argv": argv, "env": SILENT})
        self._reap()
        self._child = shim.launch(attempt)
        self._started.append(time.monotonic())

    def is_given_up(self) -> bool:
        """Tell whether it is dead and not started any more."""
        return len(self._started) >= MOST_STARTS and not self.alive()

    def is_late(self) -> bool:
        """Tell whether steps should start without their runs."""
        return self.is_given_up() or bool(self._started and time.monotonic() > self._started[0] + PATIENCE_S)

    def alive(self) -> bool:
        """Tell whether the process lives."""
        return shim.alive(self._attempt(self._latest()))

    def variables(self, experiment: str, run: str | None) -> dict[str, str]:
        """Return what a step finds in its environment, so that its script logs into its run."""
        place = shim.read_json(self.folder / EXPERIMENT) or {}
        found = {"MLFLOW_TRACKING_URI": tracking_uri(self.workspace), "MLFLOW_EXPERIMENT_NAME": experiment, **SILENT}
        if run is not None and place.get("name") == experiment:
            found |= {"MLFLOW_EXPERIMENT_ID": place["id"], "MLFLOW_RUN_ID": run}
        return found

    def wait(self, patience_s: float = MIRROR_S) -> dict[str, Any]:
        """Wait for the process to finish what it does, and return how it ended; after `patience_s` it is ended.

        A failed mirror fails no job: the store knows all that MLflow would.
        """
        deadline = time.monotonic() + patience_s
        while self.alive() and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)
        self.stop()
        while self.alive():
            time.sleep(0.02)
        attempt = self._attempt(self._latest())
        end = shim.read_exit(attempt)
        return {"mirrored": end is not None and end["rc"] == 0, "log": str(attempt / "log.txt")}

    def stop(self) -> None:
        """End the process if it lives."""
        if self.alive():
            shim.stop(self._attempt(self._latest()))

    def _reap(self) -> None:
        if self._child is not None:
            self._child.poll()

    def _latest(self) -> int:
        return max((int(path.name.removeprefix("attempt-")) for path in self.folder.glob("attempt-*")), default=0)

    def _attempt(self, number: int) -> Path:
        return self.folder / f"attempt-{number}"


def tracking_uri(workspace: Path) -> str:
    """Return the address of MLflow's store, for any name of a folder: SQLAlchemy reads % and ? as a URL's."""
    path = str(workspace / "mlflow.db").replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def experiment_name(job: JobRow) -> str:
    """Return the experiment that a job belongs to: what its document says, else what it runs."""
    return str((job.about or {}).get("experiment_name") or job.spec["plan"]["name"])


def main(workspace: Path, job: str) -> None:
    """Keep MLflow in line with a job, until that has ended or waits for this to finish."""
    with contextlib.closing(sqlite3.connect(workspace / "mlflow.db")) as connection:
        # stays with the file: MLflow's 300 statements of a first start wait for the disk once each, not three times
        connection.execute("pragma journal_mode = wal")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri(workspace), registry_uri=tracking_uri(workspace))
    with Store(workspace / "penala.db") as store:
        _Job(client, workspace, store, job).run()


class _Job:
    """One job in MLflow."""

    def __init__(self, client: "MlflowClient", workspace: Path, store: Store, job: str) -> None:
        self.client = client
        self.workspace = workspace
        self.store = store
        self.name = job
        row = self._row()
        self.plan = Plan.from_json(row.spec["plan"])
        self.steps = {step.name: step for step in self.plan.steps}
        self.experiment = _experiment(client, experiment_name(row), workspace)
        place = {"id": self.experiment, "name": experiment_name(row)}
        shim.write_json(workspace / "jobs" / job / ".mlflow" / EXPERIMENT, place)
        found = client.search_runs([self.experiment], f"tags.`penala.job` = '{job}'")
        self.known = {run.info.run_id: run.data.tags.get("penala.step") for run in found}
        self.root = self._root(row)
        self.curves: dict[str, _Curve] = {}
        self.points: dict[str, set[tuple[str, int]]] = {}  # run -> what is logged there
        self.closed: set[str] = set()

    def run(self) -> None:
        """Follow the job until its end."""
        alone_since, cancelled = time.monotonic(), False
        lock = self.workspace / "jobs" / self.name / RUNNER_LOCK
        while True:
            status, doing = self.store.sql(
                "select status, json_extract(result, '$.doing') from jobs where name = ?", self.name
            )[0]
            steps = self.store.find(StepRow, order="position", job=self.name)
            last = status in ENDED or doing == "mlflow"
            done = {step.name for step in steps if step.status == "Completed"}
            for step in steps:
                if step.status != "NotStarted" or feeders(self.steps[step.name]) <= done:
                    self._follow(step)
            if status == "CancelRequested" and not cancelled:
                cancelled = True
                self._expect_cancel(steps)
            if last:
                self._finish(self._row())
                return
            if shim.held(lock):
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > ALONE_S:
                return  # whoever goes on with the job starts this again
            time.sleep(POLL_S)

    def _row(self) -> JobRow:
        row = self.store.get(JobRow, name=self.name)
        assert row is not None
        return row

    # -- runs --

    def _root(self, row: JobRow) -> str:
        roots = [run for run, step in self.known.items() if step is None]
        run = row.run if row.run in roots else next(iter(roots), None)
        if run is None:
            return self._new_root(row)
        self.client.update_run(run, status="RUNNING")  # a failed job that goes on
        self.store.update(JobRow, {"name": row.name}, run=run)
        return run

    def _new_root(self, row: JobRow) -> str:
        given = (row.about or {}).get("tags") or {}
        tags = {str(key): str(value) for key, value in given.items()}
        run = self._new_run(row.name, row.started, {**tags, "penala.display_name": row.display_name})
        self.store.update(JobRow, {"name": row.name}, run=run)
        return run

    def _new_run(self, name: str, started: float | None, tags: Mapping[str, str]) -> str:
        tags = {"penala.job": self.name, "mlflow.rootRunId": self.name, **tags}  # notebooks find a job's runs by both
        run: str = self.client.create_run(self.experiment, _millis(started), tags, run_name=name).info.run_id
        return run

    def _child(self, row: StepRow) -> str:
        """Return the run of a step; a step that is run again gets a new one in place of the old one."""
        if self.plan.kind == "command":
            if row.attempt:  # what the attempt before it logged is no result
                self.client.delete_run(self.root)
                self.root = self._new_root(self._row())
            run = self.root
        elif row.run in self.known:
            return str(row.run)
        else:
            for old in [old for old, step in self.known.items() if step == row.name]:
                self.client.delete_run(old)
                del self.known[old]
            tags = {"penala.step": row.name, "mlflow.parentRunId": self.root}
            if row.reused_from:
                tags["penala.reused_from"] = row.reused_from
            run = self._new_run(row.name, row.started, tags)
            self.known[run] = row.name
        self.closed.discard(row.name)
        self.curves.pop(row.name, None)
        self.store.update(StepRow, {"job": self.name, "name": row.name, "attempt": row.attempt}, run=run)
        return run

    def _follow(self, row: StepRow) -> None:
        """Bring a step's run up to date."""
        if row.status == "Canceled" and row.attempt == 0:
            return  # it never ran
        run = row.run if row.run is not None and self.plan.kind == "command" else self._child(row)
        if row.name in self.closed:
            return
        curve = self.curves.setdefault(row.name, _Curve(self.workspace, row))
        self._log((self.root, run), curve.read())
        if row.status in ENDED:
            _log_params(self.client, run, self.steps[row.name])
            self._log((self.root, run), curve.figures(row))
            if run != self.root:
                if row.status == "Completed":
                    self._write(self.root, list(self._written(run)))
                self.client.set_terminated(run, _STATES[row.status], _millis(row.ended))
            self.closed.add(row.name)

    def _expect_cancel(self, rows: Iterable[StepRow]) -> None:
        """Call everything killed while the steps are being ended: there is little time afterwards."""
        for row in rows:
            if row.run is not None and row.name not in self.closed:
                self.client.set_terminated(row.run, _STATES["Canceled"])
        self.client.set_terminated(self.root, _STATES["Canceled"])

    def _finish(self, row: JobRow) -> None:
        self.client.set_terminated(self.root, _STATES.get(row.status, "FINISHED"), _millis(row.ended))
        result = row.result or {}
        for model in [result.get("register"), *(result.get("assets") or {}).get("models", ())]:
            if model is not None:
                _mirror_model(self.client, self.workspace / "artifacts" / model["digest"], model, self.root)

    # -- metrics --

    def _written(self, run: str) -> "Iterator[Metric]":
        """Yield all points of a run, those that a user's script logged among them."""
        for name in self.client.get_run(run).data.metrics:
            yield from self.client.get_metric_history(run, name)

    def _log(self, runs: Iterable[str], points: "Iterable[Metric]") -> None:
        """Log points to runs, except those that a run has."""
        points = list(points)
        for run in dict.fromkeys(runs) if points else ():
            if run not in self.points:
                self.points[run] = {(point.key, point.step) for point in self._written(run)}
            there = self.points[run]
            new = {(point.key, point.step): point for point in points if (point.key, point.step) not in there}
            self._write(run, list(new.values()))
            there |= new.keys()

    def _write(self, run: str, points: "list[Metric]") -> None:
        """Log points, some of which MLflow may have already: it keeps equal ones once."""
        for start in range(0, len(points), METRICS_AT_ONCE):
            self.client.log_batch(run, metrics=points[start : start + METRICS_AT_ONCE])


class _Curve:
    """What a step reports, as points for MLflow."""

    def __init__(self, workspace: Path, row: StepRow) -> None:
        job, step = (row.reused_from or f"{row.job}/{row.name}").split("/", 1)
        self.file = EventFile(workspace / "jobs" / job / step / "events.jsonl")
        self.start_ms = _millis(row.started)
        self.count = 0
        self.names: set[str] = set()

    def read(self) -> "Iterator[Metric]":
        """Yield the points that the step reported since the last time."""
        for event in self.file.read():
            if event["event"] == "metric":
                self.names.add(event["name"])
                yield self._point(event["name"], event["value"], int(event.get("step", 0)))

    def figures(self, row: StepRow) -> "Iterator[Metric]":
        """Yield the figures of a step that has ended, as points; those that are the end of a curve are there."""
        for name, value in _numbers(row.figures or {}):
            if name not in self.names:
                yield self._point(name, value, 0)

    def _point(self, name: str, value: Any, step: int) -> "Metric":
        from mlflow.entities import Metric

        self.count += 1
        # one millisecond apart: MLflow draws curves by step, but tells equal points apart by time
        return Metric(name, float(value), self.start_ms + self.count, step)


def _experiment(client: "MlflowClient", name: str, workspace: Path) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=(workspace / "mlartifacts").as_uri()))
        except MlflowException:  # another job was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _log_params(client: "MlflowClient", run: str, step: Step) -> None:
    """Log the inputs of a step that has ended, but for those that its own script logged: MLflow changes no param."""
    from mlflow.entities import Param

    there = client.get_run(run).data.params
    params = [
        Param(name, value.text[:LONGEST_PARAM])
        for name, value in step.inputs.items()
        if isinstance(value, Literal) and name not in there
    ]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run, params=params[start : start + PARAMS_AT_ONCE])


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
