"""A recipe from its job in Azure to the reply of its endpoint, one stage after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from penala.azure.remote import serve, submit
from penala.azure.remote.plan import RemotePlan
from penala.errors import JobError, PenalaError
from penala.recipe import Recipe
from penala.workspace.events import Event

NOT_KNOWN_HERE = ("ledger", "training", "evaluation")  # figures that stay in Azure


class RemoteRun:
    """One run. `result` is what `penala run --json` ends with, filled as far as the run has come."""

    def __init__(
        self, recipe: Recipe, plan: RemotePlan, report: Callable[[Event], None], *, again: str, on: str
    ) -> None:
        """`again` is the command that runs this recipe, `on` what other commands' `--on` takes for its workspace."""
        self._recipe = recipe
        self._plan = plan
        self._ml = plan.connection.ml
        self._report = report
        self._again = again
        self._on = on
        self.result: dict[str, Any] = {"event": "result", "status": "NotStarted", "job": None, "error": None}
        self.result |= dict.fromkeys(("model", "endpoint", *NOT_KNOWN_HERE, "reply"))

    def execute(self, *, job: str | None = None, force_rerun: bool = False, deploy: bool = True) -> dict[str, Any]:
        """Run to the end and return the result; with `job`, from that job on. What fails ends up in the result."""
        try:
            self._execute(job, force_rerun or self._recipe.settings.force_rerun, deploy)
        except PenalaError as error:
            if self.result["status"] in ("NotStarted", "Completed"):
                self.result["status"] = "Failed"
            self.result["error"] = str(error)
        return self.result

    def _execute(self, job: str | None, force_rerun: bool, deploy: bool) -> None:
        if job is None:
            job = self._send(force_rerun)
        self.result |= {"job": job, "status": "Running"}
        self._report(Event("note", job, {"text": f"{job} runs in Azure; {self.next_step()}"}))
        state = submit.follow(self._ml, job, self._turn)
        self.result["status"] = state
        if state != "Completed":
            raise submit.reason(self._ml, job, self._on) if state == "Failed" else JobError(f"{job} is {state}")
        with self._stage("register"):
            base = self._plan.model.entry
            model = serve.register(self._ml, self._recipe, job, base.reference)
        self.result["model"] = {"name": model.name, "version": str(model.version)}
        wanted = self._recipe.endpoint
        if wanted is None or not deploy:
            return
        self.result["endpoint"] = {"name": wanted.name, "scoring_uri": None, "openai_base_url": None}
        with self._stage("deploy"):
            endpoint = serve.deploy(self._ml, self._recipe, model, self._on)
            self.result["endpoint"]["scoring_uri"] = endpoint.scoring_uri
        if (sample := self._plan.here.sample) is not None:
            with self._stage("score"):
                self.result["reply"] = serve.reply_text(serve.score(self._ml, wanted.name, wanted.deployment, sample))

    def _send(self, force_rerun: bool) -> str:
        with TemporaryDirectory(prefix="penala-") as folder:
            made, notes = submit.prepare(self._plan, self._recipe, force_rerun=force_rerun, folder=Path(folder))
            for note in notes:
                self._report(Event("note", "submit", {"text": note}))
            with self._stage("compute"):
                submit.ensure_compute(self._plan)
            with self._stage("submit"):
                return submit.submit(self._ml, made)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Report that a stage begins and how it ends."""
        self._report(Event("stage", name, {"status": "started"}))
        try:
            yield
        except BaseException as error:
            self._report(Event("stage", name, {"status": "failed", "error": str(error)}))
            raise
        self._report(Event("stage", name, {"status": "completed"}))

    def _turn(self, step: str, state: str) -> None:
        self._report(step_event(step, state))

    def next_step(self) -> str:
        """Say what goes on in Azure now, and the commands that follow it, stop it or end its cost."""
        job, again = self.result["job"], self._again
        if self.result["endpoint"] is not None:
            name = self.result["endpoint"]["name"]
            return (
                f"`{again} --job {job}` goes on from here; the endpoint {name} costs until `penala endpoints delete "
                f"{name} --on {self._on}`"
            )
        if self.result["status"] in submit.ENDED and self.result["model"] is None:
            return f"`{again}` sends a new job"
        if job is not None:
            return (
                f"`{again} --job {job}` follows it to the endpoint, `penala jobs cancel {job} --on {self._on}` stops it"
            )
        return f"no job is known to be sent; `penala jobs list --on {self._on}` shows all, `{again}` begins anew"


def step_event(step: str, state: str) -> Event:
    """Return the event of a step's new state: started, completed, failed, canceled; a note for those in between."""
    status = {"Running": "started", "Completed": "completed", "Failed": "failed", "Canceled": "canceled"}.get(state)
    if status is None:
        return Event("note", step, {"text": f"{step}: {state}"})
    return Event("step", step, {"status": status})
