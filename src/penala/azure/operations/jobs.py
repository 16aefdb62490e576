"""`client.jobs`: the SDK's jobs become documents of the workspace, whose jobs come back as entities."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azure.ai.ml import Input, Output
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import (
    CommandJob,
    CustomModelFineTuningJob,
    Job,
    JobService,
    PipelineJob,
    PipelineJobSettings,
    SystemData,
)
from azure.ai.ml.exceptions import JobException, PipelineChildJobError
from azure.core.polling import LROPoller

from penala.azure.documents import as_document
from penala.azure.failures import expect_name, not_found, refusal
from penala.azure.operations.archive import Archive
from penala.azure.operations.base import Operations
from penala.azure.operations.downloads import written_over
from penala.azure.place import report
from penala.azure.poller import begin
from penala.errors import JobError, PenalaError
from penala.workspace.client import Workspace
from penala.workspace.documents import read_job, submit_job
from penala.workspace.events import Event
from penala.workspace.plan import Plan, Step
from penala.workspace.steps import KEPT
from penala.workspace.store import JobRow, StepRow
from penala.workspace.tail import Tail

PROGRESS_S = 10.0  # between two lines of progress
JOBS = "jobs"
_SAID = ("display_name", "description", "tags", "properties")  # what may change once a job is made
CHILD = "/"  # between a job's name and its step's, in the name of a child job


class JobOperations(Operations):
    """The jobs of a client's workspace."""

    def create_or_update(
        self,
        job: Job,
        *,
        description: str | None = None,
        compute: str | None = None,
        tags: dict[str, str] | None = None,
        experiment_name: str | None = None,
        **_: Any,
    ) -> Job:
        """Check a pipeline, command or finetuning job, start it and return it as it was queued.

        Everything that is wrong is told at once, before anything runs (ValidationException). A job that came from here
        does not run again: what it says of itself is kept.
        """
        self._place.require_workspace("jobs")
        if not isinstance(job, Job):
            raise refusal(f"{type(job).__name__} is no job")
        if job.id and not job.name:
            again = f"`penala jobs rerun {job.id.rpartition('/')[2]}`"
            raise refusal(f"a job that was got does not hold what it runs; build it anew, or {again} runs the same")
        if job.id:
            told = {key: getattr(job, key) for key in _SAID}
            return self._retold(str(job.name), told | ({} if tags is None else {"tags": tags}))
        given = {"description": description, "compute": compute, "tags": tags, "experiment_name": experiment_name}
        document = as_document(job) | {key: value for key, value in given.items() if value is not None}
        with self._place.opened() as workspace:
            read = read_job(document, workspace=workspace, folder=Path.cwd(), report=report)
            for note in read.notes:
                print(note)
            return self._entity(workspace, workspace.jobs.row(submit_job(workspace, read)))

    def get(self, name: str) -> Job:
        """Return a job, or the child JOB/STEP of one. Raises ResourceNotFoundError."""
        expect_name(name, "a job")
        with self._place.opened() as workspace:
            parent, _, step = name.partition(CHILD)
            if not step:
                return self._entity(workspace, workspace.jobs.row(name))
            found = [child for child in self._children(workspace, parent) if child.name == name]
            if not found:
                raise not_found(f"job {parent} has no step '{step}'")
            return found[0]

    def list(
        self,
        *,
        parent_job_name: str | None = None,
        list_view_type: ListViewType = ListViewType.ACTIVE_ONLY,
        **_: Any,
    ) -> Iterator[Job]:
        """Return all jobs, newest first, or the steps of one, in their order."""
        with self._place.opened() as workspace:
            if parent_job_name is not None:
                return iter(self._children(workspace, parent_job_name))
            view = Archive(workspace.store, JOBS).view(list_view_type)
            names = [summary.name for summary in workspace.jobs.list() if view.shows(summary.name)]
            return iter([self._entity(workspace, workspace.jobs.row(name)) for name in names])

    def update(
        self,
        name: str,
        *,
        display_name: str | None = None,
        description: str | None = None,
        tags: dict[str, str] | None = None,
        properties: dict[str, str] | None = None,
    ) -> Job:
        """Change what a job says of itself; what is None stays."""
        told = {"display_name": display_name, "description": description, "tags": tags, "properties": properties}
        return self._retold(name, {key: value for key, value in told.items() if value is not None})

    def archive(self, name: str) -> None:
        """Take a job out of the list; it can be got and restored."""
        with self._place.opened() as workspace:
            Archive(workspace.store, JOBS).set(workspace.jobs.row(name).name, None, archived=True)

    def restore(self, name: str) -> None:
        """Bring an archived job back into the list."""
        with self._place.opened() as workspace:
            Archive(workspace.store, JOBS).set(workspace.jobs.row(name).name, None, archived=False)

    def show_services(self, name: str, node_index: int = 0) -> None:
        """Return None: a job here has no services but its folder."""
        self.get(name)

    def stream(self, name: str) -> None:
        """Print what happens in a job until it ends.

        Raises JobException when it failed, not when it was canceled; Ctrl-C, which leaves it running, raises it too.
        A child job is streamed with its parent (PipelineChildJobError).
        """
        self._require_parent(name, "stream")
        with self._place.opened() as workspace:
            row = workspace.jobs.row(name)
            heading = f"RunId: {name}\nWeb View: {self._folder(workspace, name)}"
            print(f"{heading}\n")
            lines = _Lines(workspace.jobs.titles(name))
            try:
                for event in workspace.jobs.follow(name, revive=True):
                    lines.show(event)
            except KeyboardInterrupt:
                what = f"the job {name} goes on; jobs.stream follows it again, jobs.begin_cancel stops it"
                raise JobException(message=what, no_personal_data_message="interrupted") from None
            row = workspace.jobs.row(name)
            print(f"\nExecution Summary\n=================\n{heading}\nStatus: {row.status}")
            if row.status == "Failed":
                raise JobException(
                    message=f"Exception : \n {json.dumps({'error': _error(row)}, indent=4, ensure_ascii=False)}",
                    no_personal_data_message="the job failed",
                )

    def begin_cancel(self, name: str) -> LROPoller[None]:
        """Stop a job; finished steps stay done. A child job is stopped with its parent (PipelineChildJobError)."""
        self._require_parent(name, "cancel")

        def cancel() -> None:
            with self._place.opened() as workspace:
                workspace.jobs.cancel(name)
                for _ in workspace.jobs.follow(name, revive=True):
                    pass

        return begin(cancel)

    def download(
        self, name: str, *, download_path: str | Path = ".", output_name: str | None = None, all: bool = False
    ) -> None:
        """Copy an output of an ended job to DOWNLOAD_PATH/named-outputs/OUTPUT; without a name, whatever there is.

        It writes over what is there, as the SDK does.
        """
        expect_name(name, "a job")
        output = None if all else output_name
        job, _, step = name.partition(CHILD)
        with self._place.opened() as workspace, written_over(Path(download_path)) as folder:
            if step:
                _download_step(workspace, job, step, output, folder)
            else:
                workspace.jobs.download(name, output, folder)

    def _require_parent(self, name: str, command: str) -> None:
        """Raise PipelineChildJobError for the step of a job."""
        expect_name(name, "a job")
        if CHILD in name:
            raise PipelineChildJobError(job_id=str(self.get(name).id), command=command)

    def _retold(self, name: str, told: Mapping[str, Any]) -> Job:
        """Change what a job says of itself, and return it."""
        with self._place.opened() as workspace:
            row = workspace.jobs.row(name)
            said = {key: value for key, value in told.items() if key != "display_name"}
            row = dataclasses.replace(
                row,
                display_name=told.get("display_name") or row.display_name,
                about={**(row.about or {}), **said},
            )
            workspace.store.update(JobRow, {"name": name}, display_name=row.display_name, about=row.about)
            return self._entity(workspace, row)

    # -- entities --

    def _entity(self, workspace: Workspace, row: JobRow) -> Job:
        about = row.about or {}
        common: dict[str, Any] = {
            "name": row.name,
            "id": f"{self._place.id}/jobs/{row.name}",
            "display_name": row.display_name,
            "status": row.status,
            "creation_context": SystemData(created_at=datetime.fromtimestamp(row.created, UTC)),
            "services": {"Studio": JobService(endpoint=self._folder(workspace, row.name))},
            **{key: about[key] for key in ("experiment_name", "description", "tags", "properties") if about.get(key)},
        }
        document = about.get("document", {})
        if row.kind == "finetuning":
            fields = ("task", "model", "training_data", "validation_data", "hyperparameters")
            outputs = {"registered_model": _registered(row)}
            return CustomModelFineTuningJob(
                **common, **{key: document[key] for key in fields if key in document}, outputs=outputs
            )
        common |= {"outputs": _outputs(row), "inputs": _inputs(document), "compute": document.get("compute")}
        if row.kind == "command":
            command = Plan.from_json(row.spec["plan"]).steps[0].command
            where = {key: document.get(key) for key in ("environment", "code")}
            return CommandJob(**common, command=command, **where)
        return PipelineJob(**common, jobs={}, settings=PipelineJobSettings(**document.get("settings") or {}))

    def _children(self, workspace: Workspace, parent: str) -> Sequence[Job]:
        """Return the steps of a job. A command job has none."""
        row = workspace.jobs.row(parent)
        if row.kind == "command":
            return []
        steps = {step.name: step for step in Plan.from_json(row.spec["plan"]).steps}
        experiment = (row.about or {}).get("experiment_name")
        return [self._child(workspace, step, steps[step.name], experiment) for step in workspace.jobs.steps(parent)]

    def _child(self, workspace: Workspace, step: StepRow, planned: Step, experiment: str | None) -> CommandJob:
        reused = {"azureml.isreused": "true", "azureml.reusedrunid": step.reused_from} if step.reused_from else {}
        name = f"{step.job}{CHILD}{step.name}"
        outputs = {
            output: Output(type=kind, path=f"azureml://jobs/{name}/outputs/{output}")
            for output, kind in planned.outputs.items()
            if output not in KEPT
        }
        more: dict[str, Any] = {
            "name": name,
            "id": f"{self._place.id}/jobs/{name}",
            "display_name": planned.display_name,
            "experiment_name": experiment,
            "command": planned.command,
            "outputs": outputs,
            "status": step.status,
            "properties": reused,
            "services": {"Studio": JobService(endpoint=self._folder(workspace, f"{step.job}/{step.name}"))},
        }
        return CommandJob(parent_job_name=step.job, **more)

    @staticmethod
    def _folder(workspace: Workspace, name: str) -> str:
        return (workspace.jobs.folder / name).as_uri()


def _outputs(row: JobRow) -> dict[str, Output]:
    """Return the outputs of a job, each with the path by which `Model` and `Input` name it."""
    plan, named = Plan.from_json(row.spec["plan"]), {one.output: one for one in Tail.from_json(row.spec["tail"]).assets}
    found = {}
    for output in plan.outputs:
        asset: Mapping[str, Any] = {}
        if output in named:
            asset = {"name": named[output].name, "version": named[output].version}
        path = f"azureml://jobs/{row.name}/outputs/{output}"
        found[output] = Output(type=plan.output_type(output), path=path, **asset)
    return found


def _inputs(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a job as its document gives them."""
    given = document.get("inputs") or {}
    return {name: Input(**value) if isinstance(value, Mapping) else value for name, value in given.items()}


def _download_step(workspace: Workspace, job: str, step: str, output: str | None, to: Path) -> None:
    """Copy one output of a step, or all that it left. Raises JobException while it has not ended."""
    jobs = workspace.jobs
    outputs = {name: path for name, path in jobs.step_outputs(job, step).items() if name not in KEPT}
    if output is not None and outputs.get(output) is None:
        raise JobError(f"the step has no output '{output}'", where=f"{job}/{step}", fix=", ".join(outputs) or None)
    found = {f"named-outputs/{name}": path for name, path in outputs.items() if path and output in (None, name)}
    if output is None:
        found |= {f"artifacts/{inner}": path for inner, path in jobs.artifacts(job, step).items()}
    for place, source in found.items():
        (to / place).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, to / place)


def _registered(row: JobRow) -> Output:
    """Return the model that a finetuning job registers, with its version once there is one."""
    wanted = Tail.from_json(row.spec["tail"]).register
    assert wanted is not None
    made = (row.result or {}).get("register") or {}
    return Output(type="mlflow_model", name=wanted.name, version=made.get("version", wanted.version))


def _error(row: JobRow) -> dict[str, Any]:
    """Return why a job failed in Azure's shape, with the step, its last words and its log."""
    error = row.error or {}
    message = PenalaError(error.get("what", "the job failed"), where=error.get("where"), fix=error.get("fix"))
    more = {key: error[key] for key in ("step", "lines", "log") if error.get(key)}
    return {"code": "UserError", "message": str(message), **more}


class _Lines:
    """Prints a job's events; of progress, what is new and not too often."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._titles = titles
        self._last = 0.0

    def show(self, event: Event) -> None:
        """Print one event."""
        data, title = event.data, self._titles.get(event.name, event.name)
        if event.kind in ("step", "stage"):
            seconds = data.get("seconds")
            took = "" if seconds is None else f" in {seconds:.1f} s"
            print(f"{title}: {data['status']}{took}")
        elif event.kind == "note":
            print(f"    {data['text']}")
        elif event.kind == "progress":
            now = time.monotonic()
            if data["done"] == data["total"] or now - self._last >= PROGRESS_S:
                self._last = now
                loss = f", loss {data['loss']:.3f}" if data.get("loss") is not None else ""
                print(f"    {data['done']}/{data['total']} {data.get('unit', '')}{loss}")
