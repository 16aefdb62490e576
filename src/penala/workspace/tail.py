"""What a job does once its steps are done: register the model version, mirror it to MLflow, deploy it, score a sample.

Each result is written into the job's row as it comes, and each action gives the same when it is done again, so a
killed runner goes on with the first one that has no result yet.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from penala.errors import JobError
from penala.workspace.client import Workspace
from penala.workspace.store import JobRow, ModelRow, StepRow

if TYPE_CHECKING:
    from penala.workspace.mlflow_mirror import Mirror
    from penala.workspace.plan import Plan

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Register:
    """Register an output of the pipeline as a version of a model; without `version`, the next whole number."""

    name: str
    output: str
    version: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deploy:
    """Put the registered version behind an endpoint."""

    endpoint: str
    deployment: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # arguments of `Endpoints.deploy`


@dataclass(frozen=True, slots=True)
class Score:
    """Send one request body to the endpoint and keep the reply."""

    body: Any


@dataclass(frozen=True, slots=True)
class OutputAsset:
    """Keep an output of the job as a version of a data asset or a model; without `version`, the next whole number."""

    output: str
    type: str
    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class OutputCopy:
    """Copy an output of the job into a datastore, to a path in which ${{name}} is the job's name."""

    output: str
    datastore: str
    path: str


@dataclass(frozen=True, slots=True)
class Tail:
    """What is asked for after the steps; a deployment needs a registration, a score a deployment."""

    register: Register | None = None
    deploy: Deploy | None = None
    score: Score | None = None
    mlflow: bool = True  # mirror runs and model version
    assets: tuple[OutputAsset, ...] = ()
    copies: tuple[OutputCopy, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the tail as JSON values, for the job's row."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tail:
        """Return the tail that `to_json` wrote."""
        return cls(
            register=Register(**value["register"]) if value["register"] else None,
            deploy=Deploy(**value["deploy"]) if value["deploy"] else None,
            score=Score(**value["score"]) if value["score"] else None,
            mlflow=value["mlflow"],
            assets=tuple(OutputAsset(**asset) for asset in value.get("assets", ())),
            copies=tuple(OutputCopy(**copy) for copy in value.get("copies", ())),
        )


class Cancelled(BaseException):
    """The job was cancelled; no Exception, so that an action tidies up on the way out and goes on with nothing."""


class TailRunner:
    """The actions of one job's tail, in order."""

    def __init__(
        self, workspace: Workspace, job: JobRow, plan: Plan, mirror: Mirror, cancelled: Callable[[], bool]
    ) -> None:
        self.workspace = workspace
        self.mirror = mirror
        self.store = workspace.store
        self.job = job.name
        self.events = workspace.folder / "jobs" / job.name / "tail.jsonl"
        self.plan = plan
        self.tail = Tail.from_json(job.spec["tail"])
        self.cancelled = cancelled
        self.result = dict(job.result or {})

    def run(self) -> bool:
        """Do what has no result yet; return whether all was done (False: cancelled).

        Raises the PenalaError of the action that failed.
        """
        try:
            with raised_when(self.cancelled):
                self._do("register", self.tail.register, self._register)
                self._do("assets", (self.tail.assets or self.tail.copies) or None, self._keep_assets)
                if self._wants_mirror():
                    self.mirror.start()  # beside the deployment: each waits for the disk while the other one computes
                self._do("deploy", self.tail.deploy, self._deploy)
                self._do("score", self.tail.score, self._score)
                self._do("mlflow", self._wants_mirror() or None, self._mirror)
        except Cancelled:
            return False
        return True

    def _do(self, name: str, wanted: Any, action: Callable[[], dict[str, Any]]) -> None:
        """Do one action, unless it is not wanted or has its result."""
        if wanted is not None and name not in self.result:
            self._record(doing=name)
            self._record(**{name: action(), "doing": None})

    def _register(self) -> dict[str, Any]:
        wanted = self.tail.register
        assert wanted is not None
        about = {"tags": wanted.tags, "properties": wanted.properties}
        return self._register_model(wanted.name, wanted.version, wanted.output, about)

    def _register_model(self, name: str, version: str | None, output: str, about: Mapping[str, Any]) -> dict[str, Any]:
        from penala.workspace.models import register

        row = register(self.store, name, version, self._output(output), job=self.job, **about)
        return {"name": row.name, "version": row.version, "digest": row.digest}

    def _output(self, name: str) -> str:
        """Return the digest of one of the job's outputs."""
        bound = self.plan.outputs[name]
        row = self.store.get(StepRow, job=self.job, name=bound.step)
        if row is None or row.outputs is None:
            raise JobError(f"the step {bound.step} left no outputs", where=self.job)
        return row.outputs[bound.output]

    def _keep_assets(self) -> dict[str, Any]:
        """Register the outputs that the document names; those of a model's type as models, the others as data.

        Those to which it gives a path are copied there.
        """
        from penala.workspace.addresses import in_datastore

        models, data = [], []
        for asset in self.tail.assets:
            if asset.type.endswith("_model"):
                models.append(self._register_model(asset.name, asset.version, asset.output, {}))
            else:
                path = self.workspace.artifacts / self._output(asset.output)
                row = self.workspace.data.add(asset.name, path, asset.version, asset.type, job=self.job)
                data.append({"name": row.name, "version": row.version, "digest": row.digest})
        for copy in self.tail.copies:
            source = self.workspace.artifacts / self._output(copy.output)
            target = in_datastore(self.workspace.folder, copy.datastore, copy.path.replace("${{name}}", self.job))
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
        return {"models": models, "data": data}

    def _mirror(self) -> dict[str, Any]:
        """Let MLflow have the whole job; the process is started again when it dies."""
        while True:
            self.mirror.start()
            ended = self.mirror.wait()
            if ended["mirrored"] or self.mirror.is_given_up():
                return ended

    def _deploy(self) -> dict[str, Any]:
        wanted, model = self.tail.deploy, self.result["register"]
        assert wanted is not None
        info = self.workspace.endpoints.deploy(
            wanted.endpoint,
            wanted.deployment,
            model["name"],
            model["version"],
            report=self._report,
            **wanted.settings,
        )
        shown = {key: info[key] for key in ("name", "scoring_uri", "openai_base_url")}
        return {**shown, "deployment": wanted.deployment}

    def _score(self) -> dict[str, Any]:
        wanted, place = self.tail.score, self.result["deploy"]
        assert wanted is not None
        answer = self.workspace.endpoints.invoke(place["name"], wanted.body, deployment=place["deployment"])
        return {"answer": answer, "reply": reply_text(answer)}

    def _report(self, event: Mapping[str, Any]) -> None:
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.result["doing"], **event}, ensure_ascii=False) + "\n")

    def _wants_mirror(self) -> bool:
        """Tell whether there is anything new for MLflow; a job that only reused has nothing and is spared its start."""
        if not self.tail.mlflow or "mlflow" in self.result:
            return False
        if any(row.reused_from is None for row in self.store.find(StepRow, job=self.job)):
            return True
        models = [self.result.get("register"), *self.result.get("assets", {}).get("models", ())]
        rows = [self.store.get(ModelRow, name=one["name"], version=one["version"]) for one in models if one]
        return any(row is not None and row.job == self.job for row in rows)

    def _record(self, **values: Any) -> None:
        self.result |= values
        self.store.update(JobRow, {"name": self.job}, result=self.result)


def reply_text(answer: Any) -> str | None:
    """Return the text of a scoring answer: {"output": TEXT}, {"output": [TEXT, ...]} or a chat completion."""
    if not isinstance(answer, Mapping):
        return None
    output = answer.get("output")
    if isinstance(output, list):
        output = output[0] if output else None
    if output is None and answer.get("choices"):
        output = answer["choices"][0]["message"]["content"]
    return None if output is None else str(output)


@contextlib.contextmanager
def raised_when(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Raise Cancelled, once, from whatever runs inside as soon as `cancelled` says so. Main thread only.

    `cancelled` is called between any two instructions of what runs inside: it must not share anything with that.
    """

    def look(*_: object) -> None:
        if cancelled():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Cancelled

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, POLL_S / 10, POLL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
