"""Components, read from YAML in Azure ML's command and pipeline component schemas: penala's own and a user's.

A job document's commands are components without a name; the same reader takes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from penala.errors import NotFound, UsageError, near
from penala.inputs import DATA_TYPES, LITERAL_TYPES, InputSpec, input_spec
from penala.workspace.artifacts import digest
from penala.workspace.commands import placeholders
from penala.workspace.places import Place, Problems, load_yaml

SHIPPED = Path(str(files("penala.components")))
# kinds of jobs that other programs run, and what this one says of them
OUT_OF_SCOPE = frozenset(
    {"sweep", "parallel", "spark", "automl", "import", "data_transfer", "base", "flow", "flow_parallel"}
    | {"do_while", "parallel_for", "if_else", "condition", "labeling", "distillation"}
)
_COMMON_KEYS = frozenset(
    {"$schema", "type", "name", "version", "display_name", "description", "tags", "properties", "inputs", "outputs"}
    | {"is_deterministic", "id", "creation_context", "identity", "queue_settings", "intellectual_property", "services"}
)
COMMAND_KEYS = _COMMON_KEYS | {
    *("command", "code", "environment", "environment_variables", "resources", "distribution", "limits"),
    *("additional_includes", "successful_return_code"),
}
PIPELINE_KEYS = _COMMON_KEYS | {"jobs", "settings"}
NODE_KEYS = COMMAND_KEYS | PIPELINE_KEYS | {"component", "compute", "comment", "experiment_name"}
# what a node may set over its component, key by key
SETTINGS = ("resources", "distribution", "limits", "environment_variables")
MODES = ("ro_mount", "rw_mount", "mount", "download", "upload", "direct", "eval_mount", "eval_download", "link")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,254}")
_PARENT_OUTPUT = re.compile(r"\$\{\{\s*(?:parent\.)?outputs\.([\w.-]+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class CommandComponent:
    """A command with typed inputs and outputs; `outputs` maps each name to its type."""

    name: str
    version: str
    display_name: str
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, str]
    command: str
    environment: str
    deterministic: bool
    tags: Mapping[str, str]
    place: Place
    code: str | None = None
    includes: tuple[str, ...] = ()  # what joins the code folder
    settings: Mapping[str, Any] = field(default_factory=dict)
    open: bool = False  # takes inputs that it does not declare: a command written straight into a job

    @property
    def is_ours(self) -> bool:
        """Whether penala ships it."""
        return Path(self.place.source).parent == SHIPPED


@dataclass(frozen=True, slots=True)
class Binding:
    """What a node says of an output: the pipeline's output that it is, the asset that it becomes, where it goes."""

    target: str | None = None
    type: str | None = None
    name: str | None = None
    version: str | None = None
    path: str | None = None  # as it is written, of another place than the workspace's own

    @property
    def is_wanted(self) -> bool:
        """Whether something is to be made of the output when the job completes."""
        return bool(self.name or self.path)


@dataclass(frozen=True, slots=True)
class Node:
    """A command or pipeline of a pipeline: what its inputs are bound to, and which outputs are the pipeline's."""

    name: str
    display_name: str
    component: Component
    inputs: Mapping[str, Any]  # literals, data, ${{parent...}}
    outputs: Mapping[str, Binding]
    place: Place
    compute: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PipelineComponent:
    """Commands that feed one another; `outputs` maps each name to what is declared of it."""

    name: str
    version: str
    display_name: str
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, Binding]
    place: Place
    nodes: Mapping[str, Node] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()  # nodes that could not be read
    open: bool = False  # takes inputs that it does not declare

    @property
    def file(self) -> Path:
        """The file that it was read from."""
        return Path(self.place.source)

    @property
    def is_ours(self) -> bool:
        """Whether penala ships it."""
        return self.file.parent == SHIPPED


Component: TypeAlias = CommandComponent | PipelineComponent
Find: TypeAlias = Callable[[str], Path]


def shipped_pipeline(name: str) -> PipelineComponent:
    """Return a pipeline component that penala ships; raise NotFound for a name that it does not."""
    if not (SHIPPED / f"{name}.yaml").is_file():
        known = [file.stem for file in SHIPPED.glob("*.yaml")]
        raise NotFound(f"there is no component '{name}'", fix=near(name, known) or f"use {', '.join(sorted(known))}")
    return read_pipeline(SHIPPED / f"{name}.yaml")


def read_pipeline(file: Path) -> PipelineComponent:
    """Read a pipeline component and the components whose files it names.

    Raises UsageError with the file and the key of everything that is missing or out of scope.
    """
    component = read_component(file, "pipeline")
    assert isinstance(component, PipelineComponent)
    return component


def read_component(file: Path, kind: str | None = None) -> Component:
    """Read a command or pipeline component, as `read_pipeline` does; of `kind`, where that is given."""
    problems = Problems()
    component = Reader(problems).file(file, Place(str(file), file.parent), kind)
    problems.raise_all()
    assert component is not None
    return component


class Reader:
    """Reads components and collects what is wrong with them; what cannot be read is None."""

    def __init__(self, problems: Problems, find: Find | None = None) -> None:
        self.problems = problems
        self._find = find
        self._files: dict[Path, Component | None] = {}
        self._open: list[Path] = []

    def file(self, file: Path, named_at: Place, kind: str | None = None) -> Component | None:
        """Read a component's file, which is named at a place; once, however often it is named."""
        file = file.absolute()
        if file in self._open:
            self.problems.add("contains itself", Place(str(file), file.parent))
            return None
        if file not in self._files:
            try:
                document = load_yaml(file)
            except UsageError as error:
                what = "there is no such component file" if not file.exists() else error.what
                if named_at.key:
                    self.problems.add(f"{error.where}: {what}", named_at, error.fix)
                else:
                    self.problems.add(what, error.where or named_at, error.fix)
                return None
            self._open.append(file)
            self._files[file] = self.document(document, Place(str(file), file.parent), kind, named_at)
            self._open.pop()
        found = self._files[file]
        if found is not None and kind not in (None, kind_of(found)):
            self.problems.add(f"is a component of type {kind_of(found)}", named_at, f"give one of type {kind}")
            return None
        return found

    def document(
        self, document: Any, place: Place, kind: str | None = None, named_at: Place | None = None
    ) -> Component | None:
        """Read a component as it stands in a file, which is named at another place, or in a job."""
        if not isinstance(document, Mapping):
            self.problems.add("is not a component", place, "write Azure ML's component YAML")
            return None
        found = str(document.get("type") or ("pipeline" if "jobs" in document else "command")).lower()
        if found in OUT_OF_SCOPE or found not in ("command", "pipeline"):
            self.refuse(found, place, ["command", "pipeline"])
            return None
        if kind not in (None, found):
            self.problems.add(f"is a component of type {found}", named_at or place, f"give one of type {kind}")
            return None
        return self.pipeline(document, place) if found == "pipeline" else self.command(document, place)

    def refuse(self, kind: str, place: Place, known: list[str]) -> None:
        """Refuse a kind of job by its name."""
        if kind in OUT_OF_SCOPE:
            self.problems.add(
                f"is of type {kind}, which this workspace does not run", place, f"only {' and '.join(known)} jobs run"
            )
        else:
            self.problems.add(f"is of unknown type '{kind}'", place, near(kind, known) or f"use {' or '.join(known)}")

    # -- command components --

    def command(self, document: Mapping[str, Any], place: Place, *, open: bool = False) -> CommandComponent | None:
        """Read a command component; an `open` one stands in a job and gets inputs that it does not declare."""
        if not open:
            self.problems.check_keys(document, COMMAND_KEYS, place)
        common = self._common(document, place, named=not open)
        outputs = common.pop("outputs")
        command = document.get("command")
        if not isinstance(command, str) or not command.strip():
            self.problems.add("there is no command", place, "add `command:`")
            return None
        if not open:
            self.check_placeholders(command, common["inputs"], outputs, place)
        includes = document.get("additional_includes") or ()
        return CommandComponent(
            command=command,
            environment=self.environment(document.get("environment"), place.at("environment")),
            deterministic=self.flag(document, "is_deterministic", True, place),
            tags={key: str(value) for key, value in self.mapping(document, "tags", place).items()},
            place=place,
            code=self._text(document, "code", place),
            includes=tuple(map(str, includes)) if isinstance(includes, list | tuple) else (str(includes),),
            settings={key: self.mapping(document, key, place) for key in SETTINGS if document.get(key)},
            open=open,
            outputs={name: _folder_or_file(binding.type) for name, binding in outputs.items()},
            **common,
        )

    def environment(self, value: Any, place: Place) -> str:
        """Return an environment's name, or what defines it, as text."""
        if isinstance(value, Mapping):
            named = ", ".join(
                _named(key, value[key]) for key in ("name", "image", "conda_file", "build") if key in value
            )
            return named or "an environment without a name"
        return "" if value is None else str(value)

    def check_placeholders(
        self, command: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], place: Place
    ) -> None:
        """Refuse what a command asks for and its component does not declare."""
        known = {f"inputs.{name}" for name in inputs} | {f"outputs.{name}" for name in outputs}
        required, optional, strange = placeholders(command)
        for name in sorted(required | optional):
            if name not in known:
                what = f"the command uses {name}, which is not declared"
                self.problems.add(what, place.at("command"), near(name, known) or "declare it, or give it a value")
        for text in sorted(strange):
            fix = "a command may use ${{inputs.X}} and ${{outputs.X}}"
            self.problems.add(f"the command uses {text}", place.at("command"), fix)

    # -- pipelines --

    def pipeline(self, document: Mapping[str, Any], place: Place, *, open: bool = False) -> PipelineComponent | None:
        """Read a pipeline component; an `open` one is a job, whose inputs are values."""
        if not open:
            self.problems.check_keys(document, PIPELINE_KEYS, place)
        common = self._common(document, place, named=not open)
        jobs = self.mapping(document, "jobs", place)
        if not jobs:
            self.problems.add("there are no jobs", place, "add `jobs:`")
        nodes = {name: self.node(name, job, place.at("jobs", name), common["outputs"]) for name, job in jobs.items()}
        return PipelineComponent(
            nodes={name: node for name, node in nodes.items() if node is not None},
            broken=frozenset(name for name, node in nodes.items() if node is None),
            place=place,
            open=open,
            **common,
        )

    def node(self, name: str, job: Any, place: Place, parents: Mapping[str, Binding]) -> Node | None:
        """Read one job of a pipeline, whose outputs are `parents`."""
        if not isinstance(job, Mapping):
            self.problems.add("is not a mapping", place, "write `key: value` lines below it")
            return None
        if not _NAME.fullmatch(name):
            self.problems.add("is no name for a job", place, "use letters, digits and _")
            return None
        kind = str(job.get("type") or "").lower()
        if kind and kind not in ("command", "pipeline", "component"):
            self.refuse(kind, place, ["command", "pipeline"])
            return None
        self.problems.check_keys(job, NODE_KEYS, place)
        outputs = self.bindings(job, place)
        component = self._component_of(name, job, place, outputs, parents)
        if component is None:
            return None
        for output, binding in outputs.items():
            if output not in component.outputs:
                self.problems.add(
                    f"'{component.name}' has no output '{output}'",
                    place.at("outputs", output),
                    near(output, component.outputs),
                )
            if binding.target is not None and binding.target not in parents:
                what = f"the pipeline has no output '{binding.target}'"
                self.problems.add(what, place.at("outputs", output), near(binding.target, parents) or "declare it")
        return Node(
            name=name,
            display_name=str(job.get("display_name") or component.display_name),
            component=component,
            inputs=self.mapping(job, "inputs", place),
            outputs=outputs,
            place=place,
            compute=self._text(job, "compute", place),
            settings={key: self.mapping(job, key, place) for key in SETTINGS if job.get(key)},
        )

    def _component_of(
        self,
        name: str,
        job: Mapping[str, Any],
        place: Place,
        outputs: Mapping[str, Binding],
        parents: Mapping[str, Binding],
    ) -> Component | None:
        """Return what a job of a pipeline runs: the component that it names or holds, or its own command or jobs."""
        reference = job.get("component")
        if reference is not None:
            kind = str(job.get("type") or "").lower()
            return self.component(reference, place.at("component"), kind if kind != "component" else None)
        defaults = {"name": name, "display_name": name}
        if "jobs" in job:
            return self.pipeline({**defaults, **job, "inputs": None}, place, open=True)
        if "command" not in job:
            self.problems.add("names no component and has no command", place, "add `component:` or `command:`")
            return None
        # an output without a type has that of the pipeline's output that it is
        types = {
            key: {"type": binding.type or (parents.get(binding.target or "") or Binding()).type or "uri_folder"}
            for key, binding in outputs.items()
        }
        command = self.command({**defaults, **job, "inputs": None, "outputs": types}, place, open=True)
        if command is not None:
            self.check_placeholders(command.command, self.mapping(job, "inputs", place), types, place)
        return command

    def component(self, reference: Any, place: Place, kind: str | None = None) -> Component | None:
        """Read the component that is named at a place by file or id, or stands there."""
        kind = kind or None
        if isinstance(reference, Mapping):
            document = {"name": place.key.split(".")[-2] if "." in place.key else "component", **reference}
            return self.document(document, place, kind)
        text = str(reference)
        local = place.folder / text.removeprefix("file:").removeprefix("azureml:")
        if text.startswith(("azureml:", "/subscriptions/")) and not (_is_path(text) and local.is_file()):
            if self._find is None:
                self.problems.add(f"is the component {text}", place, "name a component's YAML file")
                return None
            try:
                local = self._find(text)
            except (NotFound, UsageError) as error:
                self.problems.add(error.what, place, error.fix or "`penala components add -f FILE` adds one")
                return None
        return self.file(local, place, kind)

    # -- parts of both --

    def _common(self, document: Mapping[str, Any], place: Place, *, named: bool) -> dict[str, Any]:
        """Return what both kinds of component have."""
        name = document.get("name")
        if named and (not isinstance(name, str) or not name):
            self.problems.add("the component has no name", place, "add `name:`")
        return {
            "name": str(name or "job"),
            "version": str(document.get("version") or "1"),
            "display_name": str(document.get("display_name") or name or "job"),
            "inputs": {} if not named else self._inputs(document, place),
            "outputs": self.bindings(document, place),
        }

    def _inputs(self, document: Mapping[str, Any], place: Place) -> dict[str, InputSpec]:
        found = {}
        for name, declared in self.mapping(document, "inputs", place).items():
            at = place.at("inputs", name)
            if not isinstance(declared, Mapping):
                self.problems.add("is not a mapping", at, "write {type: ...}")
                continue
            kind = str(declared.get("type") or "string").lower()
            kind = "uri_folder" if kind == "path" else kind
            if kind not in DATA_TYPES | LITERAL_TYPES:
                known = sorted(DATA_TYPES | LITERAL_TYPES)
                self.problems.add(f"is of unknown type '{kind}'", at, near(kind, known) or f"use {', '.join(known)}")
                continue
            try:
                found[name] = input_spec(name, {**declared, "type": kind})
            except (TypeError, ValueError):
                self.problems.add("has limits that are no numbers", at, "write min and max as numbers")
        return found

    def bindings(self, document: Mapping[str, Any], place: Place) -> dict[str, Binding]:
        """Return what a document says of its outputs."""
        found = {}
        for name, value in self.mapping(document, "outputs", place).items():
            at = place.at("outputs", name)
            said = {"path": value} if isinstance(value, str) else self.problems.mapping(value, at)
            target = elsewhere = None
            if isinstance(path := said.get("path"), str):
                match = _PARENT_OUTPUT.fullmatch(path.strip())
                target = match[1] if match else None
                if match is None and (isinstance(value, str) or "${{parent." in path):
                    self.problems.add(f"is {path}", at, "use ${{parent.outputs.X}} of a declared output")
                elif match is None:
                    elsewhere = path.strip()
            self.check_mode(said.get("mode"), at)
            found[name] = Binding(target, self._output_type(said.get("type"), at), *_asset(said), elsewhere)
        return found

    def _output_type(self, kind: Any, place: Place) -> str | None:
        if kind is None:
            return None
        known = DATA_TYPES | LITERAL_TYPES | {"path"}
        if str(kind).lower() not in known:
            fix = near(str(kind), known) or f"use {', '.join(sorted(DATA_TYPES))}"
            self.problems.add(f"is of unknown type '{kind}'", place, fix)
        return str(kind).lower()

    def check_mode(self, mode: Any, place: Place) -> None:
        """Refuse a mode that Azure ML does not know; here every one of them means a path on this machine."""
        if mode is not None and str(mode).lower() not in MODES and "${{" not in str(mode):
            fix = near(str(mode), MODES) or f"use {', '.join(MODES)}"
            self.problems.add(f"is of unknown mode '{mode}'", place.at("mode"), fix)

    def mapping(self, document: Mapping[str, Any], key: str, place: Place) -> Mapping[str, Any]:
        """Return the mapping that stands under a key, an empty one where there is none."""
        return self.problems.mapping(document.get(key) or None, place.at(key))

    def flag(self, document: Mapping[str, Any], key: str, default: bool, place: Place) -> bool:
        """Return a boolean that stands under a key."""
        value = document.get(key)
        if value is None:
            return default
        if str(value).lower() not in ("true", "false", "1", "0"):
            self.problems.add(f"is {value!r}", place.at(key), "use true or false")
        return str(value).lower() in ("true", "1")

    def _text(self, document: Mapping[str, Any], key: str, place: Place) -> str | None:
        value = document.get(key)
        if isinstance(value, Mapping) and isinstance(value.get("local_path" if key == "code" else "target"), str):
            value = value["local_path" if key == "code" else "target"]  # as earlier schemas wrote it
        if value is None or isinstance(value, str):
            return value
        self.problems.add(f"is {value!r}", place.at(key), "write one text")
        return None


def kind_of(component: Component) -> str:
    """Return command or pipeline."""
    return "command" if isinstance(component, CommandComponent) else "pipeline"


def _asset(said: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the name and the version of the asset that an output becomes."""
    name, version = said.get("name"), said.get("version")
    return None if name is None else str(name), None if version is None else str(version)


def _folder_or_file(kind: str | None) -> str:
    """Return an output's type; a literal that a command computes is written into a file."""
    return "uri_file" if kind in LITERAL_TYPES else "uri_folder" if kind in (None, "path") else str(kind)


def _named(key: str, value: Any) -> str:
    """Return a part of an environment as a person names it, with the digest of what is written out."""
    if key == "build" and isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    return f"{key} {value}" if isinstance(value, str) else f"inline {key} {digest(['environment/2', value])[:8]}"


def _is_path(reference: str) -> bool:
    """Tell whether `azureml:` stands before a path: the SDK writes it there when it dumps a job."""
    return reference.removeprefix("azureml:").startswith((".", "/")) and not reference.startswith("azureml://")
