"""Job documents, as `az ml job create -f` takes them and azure-ai-ml's jobs dump themselves, become plans.

Everything that can be wrong with a document is found before anything runs, and told at once: file, line, key, and how
to mend it. What Azure's machines would need and this one does not (environments, computes, sizes) is told as a note.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from penala.assets import require_name
from penala.errors import PenalaError, UsageError, near
from penala.workspace.addresses import DATASTORE, Addresses, in_datastore
from penala.workspace.components import (
    COMMAND_KEYS,
    NODE_KEYS,
    OUT_OF_SCOPE,
    PIPELINE_KEYS,
    Binding,
    PipelineComponent,
    Reader,
)
from penala.workspace.overlay import INSTALLS
from penala.workspace.places import Place, Problems, load_yaml
from penala.workspace.plan import Literal, Plan, Upstream
from penala.workspace.planner import Planner
from penala.workspace.snapshots import Snapshots
from penala.workspace.tail import OutputAsset, OutputCopy, Tail

if TYPE_CHECKING:
    from penala.workspace.client import Workspace

KINDS = ("pipeline", "command", "finetuning")
JOB_KEYS = frozenset(
    {"$schema", "type", "name", "display_name", "experiment_name", "description", "tags", "properties", "compute"}
    | {"identity", "services", "inputs", "outputs", "queue_settings", "resources", "limits", "notification_setting"}
    | {"id", "creation_context", "status", "log_files", "parent_job_name", "parameters", "resource_group"}
)
_KEYS_OF = {
    "pipeline": JOB_KEYS | PIPELINE_KEYS | {"component"},
    "command": JOB_KEYS | COMMAND_KEYS | {"component"},
    "finetuning": JOB_KEYS | {"task", "model_provider", "model", "training_data", "validation_data", "hyperparameters"},
}
_SETTINGS = ("force_rerun", "continue_on_step_failure", "default_compute", "default_datastore")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_EXPRESSION = re.compile(r"\$\{\{\s*(\w+)\s*\}\}")
_HERE = (None, "local", "serverless")
FINETUNE = "chat_completion_finetune"
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class JobDocument:
    """A document that passed every check: what runs, and what is said of it."""

    plan: Plan
    tail: Tail
    display_name: str
    name: str | None = None  # that the job must get
    about: Mapping[str, Any] = field(default_factory=dict)  # experiment_name, description, tags, properties, document
    force_rerun: bool = False
    notes: Sequence[str] = ()  # to tell the user

    @property
    def kind(self) -> str:
        """Pipeline, command or finetuning."""
        return self.plan.kind


def read_job(
    source: str | Path | Mapping[str, Any],
    *,
    workspace: Workspace,
    folder: Path | None = None,
    set_: Sequence[str] = (),
    report: Report = lambda event: None,
) -> JobDocument:
    """Read and check a job document: a file, or its mapping, whose relative paths start at `folder`.

    `set_` are KEY=VALUE with dotted keys, which change the document first. Files behind links are fetched, code folders
    and models kept in the workspace; `report` is told how far that is. Raises UsageError with everything that is wrong,
    DataError for conversations that cannot be trained on.
    """
    if isinstance(source, Mapping):
        document, place = dict(source), Place("job", folder or Path.cwd())
    else:
        file = Path(source)
        document, place = load_yaml(file), Place(str(file), folder or file.absolute().parent)
    if not isinstance(document, Mapping):
        raise UsageError("is not a job document", where=str(place), fix="write Azure ML's job YAML")
    document = _changed(_as_json(document), set_)
    return _Document(workspace, document, place, report).read()


def submit_job(workspace: Workspace, document: JobDocument) -> str:
    """Make the job of a document, start it and return its name. Raises UsageError for a name that a job has.

    One that the same document made, and whose runner was killed, goes on instead: its steps may live.
    """
    name = workspace.jobs.submit(
        document.plan,
        document.tail,
        display_name=document.display_name,
        force_rerun=document.force_rerun,
        continue_unfinished=False,
        continue_abandoned=True,
        name=document.name,
        about=document.about,
    )
    workspace.jobs.start(name)
    return name


def _changed(document: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return the document with its --set options done."""
    for change in changes:
        key, equals, text = change.partition("=")
        where = f"--set {change}"
        if not equals or not key.strip():
            raise UsageError("is not KEY=VALUE", where=where, fix="for example --set inputs.epochs=3")
        *parents, last = key.strip().split(".")
        inner = document
        for parent in parents:
            if inner.get(parent) is None:
                inner[parent] = {}
            inner = inner[parent]
            if not isinstance(inner, dict):
                raise UsageError(f"{parent} holds no keys", where=where, fix=f"set {parent} itself")
        try:
            value = _as_json(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError):  # ValueError: looks like a date, and is none
            value = text
        # `echo a: b` is a mapping in YAML, and a command to whoever types it
        inner[last] = text if isinstance(value, dict | list) and text.lstrip()[:1] not in ("{", "[") else value
    return document


def _as_json(value: Any) -> Any:
    """Return what YAML holds as JSON holds it: a date, also where it is a key, is the text that it was."""

    def with_keys(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            plain = str | int | float | None
            return {key if isinstance(key, plain) else str(key): with_keys(one) for key, one in inner.items()}
        return [with_keys(one) for one in inner] if isinstance(inner, list) else inner

    return json.loads(json.dumps(with_keys(value), default=str))


class _Document:
    """One job document on its way to a plan."""

    def __init__(self, workspace: Workspace, document: dict[str, Any], place: Place, report: Report) -> None:
        self.workspace = workspace
        self.document = document
        self.place = place
        self.report = report
        self.problems = Problems()
        self.reader = Reader(self.problems, workspace.components.get)

    def read(self) -> JobDocument:
        """Check the document, and return what it asks for."""
        kind = str(self.document.get("type") or self._default_kind()).lower()
        if kind not in KINDS:
            self._refuse(kind)
        self.problems.check_keys(self.document, _KEYS_OF[kind], self.place)
        name = self._name()
        if kind == "finetuning":
            from penala.workspace.finetuning import plan_finetuning

            plan, tail = plan_finetuning(self.workspace, self.document, self.place, self.problems, self.report)
            slots = self._slots({self.document.get("compute"): (self.place.at("compute"), 1)})
            plan, force = replace(plan, slots=slots), False
        else:
            plan, tail, force = self._planned(kind)
        title = str(self.document.get("display_name") or name or self._stem())
        if "services" in self.document:
            self.problems.note("services are not started here")
        return JobDocument(
            plan=replace(plan, kind=kind, display_name=title),
            tail=tail,
            display_name=title,
            name=name,
            about=self._about(),
            force_rerun=force,
            notes=tuple(self.problems.notes),
        )

    def _default_kind(self) -> str:
        return "pipeline" if "jobs" in self.document else "command"

    def _refuse(self, kind: str) -> None:
        place, known = self.place.at("type"), ", ".join(KINDS)
        if kind in OUT_OF_SCOPE:
            article = "an" if kind[0] in "aeiou" else "a"
            self.problems.add(f"{article} {kind} job does not run in this workspace", place, f"{known} jobs do")
        else:
            fix = near(kind, [*KINDS, *OUT_OF_SCOPE]) or f"use {known}"
            self.problems.add(f"'{kind}' is no type of job", place, fix)
        self.problems.raise_all()

    def _name(self) -> str | None:
        name = self.document.get("name")
        if name is not None and not _NAME.fullmatch(str(name)):
            fix = "use letters, digits, '_', '-' and '.', a letter or digit first"
            self.problems.add(f"{str(name)!r} is no name for a job", self.place.at("name"), fix)
        return None if name is None else str(name)

    def _stem(self) -> str:
        return Path(self.place.source).stem

    def _about(self) -> dict[str, Any]:
        """Return what the document says beside what runs, and the document itself."""
        fields = ("experiment_name", "description", "tags", "properties")
        return {key: self.document[key] for key in fields if self.document.get(key)} | {"document": self.document}

    # -- pipeline and command jobs --

    def _planned(self, kind: str) -> tuple[Plan, Tail, bool]:
        """Return the plan of a pipeline or command job, its tail, and whether its steps must run again."""
        component = self._component(kind)
        settings = self.reader.mapping(self.document, "settings", self.place)
        at = self.place.at("settings")
        for key in ("on_init", "on_finalize"):
            if key in settings:
                self.problems.add("is not run in this workspace", at.at(key), "make it a job of the pipeline")
        self.problems.check_keys([key for key in settings if key not in ("on_init", "on_finalize")], _SETTINGS, at)
        force = self.reader.flag(settings, "force_rerun", False, at)
        proceed = self.reader.flag(settings, "continue_on_step_failure", kind == "pipeline", at)
        compute = settings.get("default_compute") or self.document.get("compute")
        if component is None:
            self.problems.raise_all()
            raise AssertionError("a document that cannot be read is a problem")
        self._plan(kind, component, compute, final=False)  # finds what is wrong, before anything is fetched or kept
        self.problems.raise_all()
        self._note_writers(component)
        plan, planner = self._plan(kind, component, compute, final=True)
        computes = dict(planner.computes)
        if compute is not None and (used := computes.get(str(compute))):  # named here, not where it is used
            named_at = at.at("default_compute") if settings.get("default_compute") else self.place.at("compute")
            computes[str(compute)] = named_at, used[1]
        slots = self._slots(computes)
        plan, tail = self._with_assets(component, plan, planner.named)
        self._note_environments(plan)
        self.problems.raise_all()
        return replace(plan, slots=slots, continue_on_step_failure=proceed), tail, force

    def _note_writers(self, component: PipelineComponent) -> None:
        """Say which of several jobs that write the same output of the pipeline counts."""
        for output in component.outputs:
            writers = [
                node.name
                for node in component.nodes.values()
                if any(binding.target == output for binding in node.outputs.values())
            ]
            if len(writers) > 1:
                place = self.place.at("outputs", output)
                self.problems.note(f"{place}: {', '.join(writers)} write it; what {writers[0]} writes is kept")

    def _component(self, kind: str) -> PipelineComponent | None:
        """Return the pipeline that the document is: its jobs, the component that it names, or its one command."""
        if kind == "command":
            return self._command()
        reference = self.document.get("component")
        if reference is None:
            document = {"name": self._stem(), **self.document, "inputs": None}
            return self.reader.pipeline(document, self.place, open=True)
        if self.document.get("jobs"):
            self.problems.add("has both `jobs` and `component`", self.place, "leave one of them out")
        found = self.reader.component(reference, self.place.at("component"), "pipeline")
        if not isinstance(found, PipelineComponent):
            return None
        outputs = self.reader.bindings(self.document, self.place)
        for name in outputs:
            if name not in found.outputs:
                what = f"'{found.name}' has no output '{name}'"
                self.problems.add(what, self.place.at("outputs", name), near(name, found.outputs))
        return replace(found, outputs={**found.outputs, **outputs})

    def _command(self) -> PipelineComponent | None:
        """Return the pipeline of one job, `main`, that a command job is; its outputs are the pipeline's."""
        job = {key: value for key, value in self.document.items() if key in NODE_KEYS}
        named = "component" in job
        node = self.reader.node("main", job, self.place, {})
        if node is None:
            return None
        name = str(self.document.get("display_name") or self.document.get("name") or self._stem())
        component = node.component if named else replace(node.component, name=name)
        outputs = {**dict.fromkeys(component.outputs, Binding()), **node.outputs}
        bound = {output: replace(binding, target=output) for output, binding in outputs.items()}
        node = replace(node, name="main", display_name=name, component=component, outputs=bound)
        return PipelineComponent(name, "1", name, {}, outputs, self.place, {"main": node}, open=True)

    def _plan(self, kind: str, component: PipelineComponent, compute: Any, *, final: bool) -> tuple[Plan, Planner]:
        planner = Planner(
            self.problems,
            Addresses(self.workspace, fetch=final, report=self.report),
            Snapshots(self.workspace, keep=final),
            deterministic=kind != "command",  # Azure ML runs a command job again each time
        )
        given = {} if kind == "command" else self.reader.mapping(self.document, "inputs", self.place)
        plan = planner.plan(component, given, self.place.at("inputs"), None if compute is None else str(compute))
        if not self.problems.found:
            self._check_finetuning(plan)
        return plan, planner

    def _check_finetuning(self, plan: Plan) -> None:
        """Refuse settings that our training step would refuse, before the steps before it run."""
        from penala.training.settings import FinetuneSettings

        for step in plan.steps:
            if step.component == FINETUNE and step.code:
                literals = {name: value.text for name, value in step.inputs.items() if isinstance(value, Literal)}
                try:
                    FinetuneSettings.from_inputs(literals)
                except PenalaError as error:
                    self.problems.add(error.what, self.place.at("jobs", step.name, error.where or ""), error.fix)

    def _with_assets(
        self, component: PipelineComponent, plan: Plan, named: Mapping[Upstream, Binding]
    ) -> tuple[Plan, Tail]:
        """Return the tail that registers the outputs which the document names, or copies those to which it gives a
        path in a datastore, and the plan that has all of them."""
        outputs = dict(plan.outputs)
        places = {name: self.place.at("outputs", name) for name in outputs}
        found = {name: bound for name, bound in component.outputs.items() if name in outputs and bound.is_wanted}
        for upstream, binding in named.items():
            known = next((name for name, bound in outputs.items() if bound == upstream), None)
            name = known or f"{upstream.step}.{upstream.output}"
            jobs = [key for job in upstream.step.split(".") for key in ("jobs", job)]
            places.setdefault(name, self.place.at(*jobs, "outputs", upstream.output))
            outputs[name] = upstream
            found.setdefault(name, binding)
        plan = replace(plan, outputs=outputs)
        assets = [
            OutputAsset(name, binding.type or plan.output_type(name), str(binding.name), binding.version)
            for name, binding in found.items()
            if binding.name
        ]
        for asset in assets:
            with self.problems.collected(places[asset.output]):
                require_name(asset.name, asset.version)
        copies = [self._copy(name, binding.path, places[name]) for name, binding in found.items() if binding.path]
        return plan, Tail(assets=tuple(assets), copies=tuple(filter(None, copies)))

    def _copy(self, output: str, address: str, place: Place) -> OutputCopy | None:
        """Return what brings an output to the address that the document gives it; None for one that is not here."""
        settings = self.reader.mapping(self.document, "settings", self.place)
        datastore = str(settings.get("default_datastore") or "workspaceblobstore").removeprefix("azureml:")
        known = {"default_datastore": datastore, "output_name": output, "name": "${{name}}"}
        filled = _EXPRESSION.sub(lambda part: known.get(part[1], part[0]), address)
        match = DATASTORE.fullmatch(filled)
        if match is None or "${{" in filled.replace("${{name}}", ""):
            self.problems.note(f"{place}: is kept in the workspace, not at {address}")
            return None
        with self.problems.collected(place):
            stand_in = in_datastore(self.workspace.folder, match[1], match[2])
            self.problems.note(f"{place}: {address} is {stand_in} here")
        return OutputCopy(output, match[1], match[2])

    def _slots(self, named: Mapping[str | None, tuple[Place, int]]) -> int:
        """Return how many steps may run side by side on the computes that steps name; say which are not there."""
        here = self.workspace.computes.show("local").slots
        slots = []
        for name, (place, nodes) in named.items():
            plain = None if name is None else str(name).removeprefix("azureml:").rstrip("/").rpartition("/")[2]
            found = None if plain in _HERE else self.workspace.computes.get(str(plain))
            if found is None and plain not in _HERE:
                self.problems.note(f"there is no compute '{plain}' here: its steps run on this machine ({place})")
            if found is not None and nodes > found.nodes:
                fix = f"use {found.nodes} or fewer, or a larger compute"
                self.problems.add(f"'{found.name}' has {found.nodes} nodes, and {nodes} are asked for", place, fix)
            slots.append(found.slots if found else here)
        return max(slots, default=1)

    def _note_environments(self, plan: Plan) -> None:
        """Say which environments this Python stands in for, and who adds to it."""
        named = dict.fromkeys(step.environment for step in plan.steps if step.environment and not step.code)
        if named:
            python = f"this workspace's Python {platform.python_version()}"
            self.problems.note(f"{python} stands in for the environments {', '.join(named)}")
        for step in plan.steps:
            if INSTALLS.search(step.command):
                self.problems.note(f"packages that the command of {step.name} installs are there for it alone")
