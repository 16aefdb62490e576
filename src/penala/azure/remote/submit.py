"""The billed half: the cluster, the job, and watching it."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from azure.ai.ml import MLClient, dsl, load_component
from azure.ai.ml.entities import AmlCompute, PipelineJob
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import AzureError

from penala.azure.remote import conversations
from penala.azure.remote.own_components import write_components
from penala.azure.remote.plan import RemotePlan
from penala.azure.remote.reasons import during, state_text
from penala.errors import JobError, WorkspaceError
from penala.recipe import Recipe

OUTPUT = "trained_model"
ENDED = ("Completed", "Failed", "Canceled", "NotResponding", "Paused")
SECONDS_BETWEEN_QUESTIONS = (5.0, 30.0)  # at first, and later on
Turn = Callable[[str, str], None]  # (step, state)


def ensure_compute(plan: RemotePlan) -> None:
    """Make the cluster when it is not there. Raises WorkspaceError."""
    if not plan.new_compute:
        return
    wanted = plan.compute
    cluster = AmlCompute(
        name=wanted.name,
        size=wanted.size,
        min_instances=wanted.min_instances,
        max_instances=wanted.max_instances,
        idle_time_before_scale_down=wanted.idle_seconds,
        tier=None if wanted.tier == "dedicated" else wanted.tier,  # dedicated is what Azure takes for nothing said
    )
    with during(f"making the cluster {wanted.name}", WorkspaceError):
        plan.connection.ml.compute.begin_create_or_update(cluster).result()


def prepare(plan: RemotePlan, recipe: Recipe, *, force_rerun: bool, folder: Path) -> tuple[PipelineJob, list[str]]:
    """Return the job, and what to tell of its data; what has to be written for it goes into `folder`.

    Raises JobError, or DataError for splits that are too small.
    """
    data, notes = conversations.inputs(recipe, plan.here.checked, plan.components, folder)
    with during("making the job"):
        component = plan.component or load_component(write_components(folder / "components"))
        job = _pipeline(component, recipe.model_name, {**plan.model.inputs, **plan.literals, **data})
    job.settings.force_rerun = force_rerun
    job.settings.continue_on_step_failure = False
    name = f"chat_completion_{plan.model.entry.name}"
    job.experiment_name = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return job, notes


def submit(ml: MLClient, job: PipelineJob) -> str:
    """Upload the conversations, send the job, and return its name. Raises JobError.

    What lies in Azure already is not uploaded again, so that a second try after a cut goes on.
    """
    with during("sending the conversations and the job"), redirect_stderr(io.StringIO()):  # an upload colours lines
        return str(ml.jobs.create_or_update(job).name)


def _pipeline(component: Any, title: str, inputs: dict[str, Any]) -> PipelineJob:
    @dsl.pipeline(name=title)  # type: ignore[untyped-decorator, unused-ignore]
    def tuning() -> Any:
        chat_completion_pipeline = component(**inputs)  # the step's name in Azure is this variable's
        return {OUTPUT: chat_completion_pipeline.outputs.mlflow_model_folder}

    return tuning()


def follow(ml: MLClient, job: str, turn: Turn) -> str:
    """Tell each step's new state until the job ends; return the job's own state."""
    said: dict[str, str] = {}
    for pause in _pauses():
        with during(f"asking after {job}"):
            state = state_text(ml.jobs.get(job).status)
            children = list(ml.jobs.list(parent_job_name=job))
        for child in children:
            name, now = str(child.display_name or child.name), state_text(child.status)
            if said.get(name) != now:
                said[name] = now
                turn(name, now)
        if state in ENDED:
            return state
        time.sleep(pause)
    raise AssertionError("the pauses have no end")


def _pauses() -> Iterator[float]:
    pause, longest = SECONDS_BETWEEN_QUESTIONS
    while True:
        yield pause
        pause = min(pause * 1.2, longest)


def reason(ml: MLClient, job: str, on: str) -> JobError:
    """Return why a job failed, in Azure's words. The SDK tells it only where it streams a job to its end.

    `on` is what `--on` takes for this workspace.
    """
    words = "it failed"
    try:
        with redirect_stdout(io.StringIO()):
            ml.jobs.stream(job)
    except JobException as error:
        words = _message(str(error.message))
    except AzureError as error:
        words = str(error)
    return JobError(f"{job}: {words}", fix=f"`penala jobs show {job} --on {on}` shows its steps and its page")


def _message(text: str) -> str:
    """Return the message of the JSON that follows `Exception :`, else the text on one line."""
    try:
        found = json.loads(text[text.index("{") :])
        return str(found["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())
