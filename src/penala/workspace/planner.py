"""From a pipeline component and its inputs to a plan: bindings resolved, values checked, nested pipelines unfolded."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from penala.errors import PenalaError, near
from penala.inputs import DATA_TYPES, LITERAL_TYPES, InputSpec
from penala.workspace.addresses import LocalFiles
from penala.workspace.artifacts import digest_of
from penala.workspace.code import code_digest
from penala.workspace.commands import fill, placeholders, render
from penala.workspace.components import MODES, Binding, CommandComponent, Node, PipelineComponent
from penala.workspace.places import Place, Problems
from penala.workspace.plan import ARTIFACTS, File, Literal, Plan, Step, Upstream, Value, feeders

_INPUT = re.compile(r"\$\{\{\s*(?:parent\.)?inputs\.([\w.-]+)\s*\}\}")
_JOB_OUTPUT = re.compile(r"\$\{\{\s*(?:parent\.)?jobs\.([\w-]+)\.outputs\.([\w.-]+)\s*\}\}")
_USE = "use ${{parent.inputs.X}} or ${{parent.jobs.X.outputs.Y}}"
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_MACHINE = re.compile(r"(compute|instance_type|shm_size)_")  # inputs that say where a step runs; it runs here
_LONG_FORM = frozenset(
    {"type", "path", "mode", "value", "default", "description", "optional", "datastore", "path_on_compute"}
)
MOST_BYTES = 131_071  # of one argument or variable of a Linux process


@dataclass(frozen=True, slots=True)
class Raw:
    """A value of a job's own inputs, which declare no type: it is read as what takes it declares."""

    value: Any
    place: Place


Bound: TypeAlias = Value | Raw


class Files(Protocol):
    """Finds what the address of a file, a folder or a model stands for; raises PenalaError when it is not there."""

    def __call__(self, address: str, kind: str, place: Place) -> File: ...


def make_plan(
    pipeline: PipelineComponent,
    inputs: Mapping[str, Any],
    *,
    folder: Path,
    digest_path: Callable[[Path], str] = digest_of,
) -> Plan:
    """Plan a job of `pipeline` with these inputs; relative paths start at `folder`.

    Raises UsageError with every input that is unknown, missing, of the wrong type or outside its limits, every file
    that does not exist, and steps that wait for one another.
    """
    problems = Problems()
    planner = Planner(problems, LocalFiles(digest_path))
    plan = planner.plan(pipeline, inputs, Place(pipeline.name, folder, "inputs"))
    problems.raise_all()
    return plan


@dataclass(frozen=True, slots=True)
class _Level:
    """A pipeline within the job: what its inputs are, and what its steps' names start with."""

    pipeline: PipelineComponent
    inputs: Mapping[str, Bound | None]  # None: not given
    prefix: str
    compute: str | None


@dataclass(slots=True)
class Planner:
    """Plans one job. What is wrong goes to `problems`; a plan with problems must not run."""

    problems: Problems
    files: Files
    snapshot: Callable[[CommandComponent], str | None] = lambda component: None  # artifact of a component's code
    deterministic: bool = True  # unless a component says otherwise
    computes: dict[str | None, tuple[Place, int]] = field(default_factory=dict)  # name: where, and most nodes
    named: dict[Upstream, Binding] = field(default_factory=dict)  # outputs to which jobs give a name or a path
    steps: list[Step] = field(default_factory=list)
    gathering: set[str] = field(default_factory=set)  # steps whose ./outputs and ./logs another one takes
    refused: int = 0  # inputs

    def plan(
        self, pipeline: PipelineComponent, given: Mapping[str, Any], place: Place, compute: str | None = None
    ) -> Plan:
        """Plan a job of `pipeline` with the inputs that stand at `place`."""
        level = _Level(pipeline, self._given(None, pipeline, given, place), "", compute)
        self._unfold(level)
        self.steps = [
            replace(step, outputs={**step.outputs, ARTIFACTS: "uri_folder"}, gathers=True)
            if step.name in self.gathering
            else step
            for step in self.steps
        ]
        return Plan(
            name=pipeline.name,
            version=pipeline.version,
            display_name=pipeline.display_name,
            steps=tuple(self._in_order(pipeline)),
            outputs=self._outputs(level),
        )

    # -- pipelines --

    def _unfold(self, level: _Level) -> None:
        for node in level.pipeline.nodes.values():
            compute = self._setting(level, node.compute, node.place.at("compute")) or level.compute
            for output, binding in node.outputs.items():
                if binding.is_wanted and (written := _written(node, output, level.prefix)):
                    self.named[written] = binding
            if isinstance(node.component, CommandComponent):
                step = self._step(level, node, node.component)
                self.steps.append(step)
                place, most = self.computes.get(compute, (node.place.at("compute"), 1))
                self.computes[compute] = place, max(most, step.nodes)
            else:
                inputs = self._given(level, node.component, node.inputs, node.place.at("inputs"))
                self._unfold(_Level(node.component, inputs, f"{level.prefix}{node.name}.", compute))

    def _given(
        self, level: _Level | None, pipeline: PipelineComponent, given: Mapping[str, Any], place: Place
    ) -> dict[str, Bound | None]:
        """Return a value for each input of a pipeline within `level`, or of the job itself."""
        used = set(_INPUT.findall(str([(node.inputs, node.compute) for node in pipeline.nodes.values()])))
        found: dict[str, Bound | None] = {}
        for name, value in given.items():
            if name in pipeline.inputs:
                continue
            if not pipeline.open and name not in used:
                self.problems.add(
                    f"'{pipeline.name}' has no input '{name}'", place.at(name), near(name, pipeline.inputs)
                )
            else:
                found[name] = self._passed(level, name, value, place.at(name))
        for name, spec in pipeline.inputs.items():
            bound = found[name] = self._bind(level, spec, given.get(name), place.at(name), pipeline.place)
            if pipeline.is_ours and name not in used and not _MACHINE.match(name):
                default = None if spec.default is None else Literal(spec.text(spec.default))
                if bound not in (None, default):
                    fix = "leave it out" + (f"; only its default, {spec.default}, runs" if default else "")
                    self.problems.add("cannot be honoured yet", place.at(name), fix)
        return found

    def _passed(self, level: _Level | None, name: str, value: Any, place: Place) -> Bound | None:
        """Return what an input that declares no type is bound to: unread, for whatever takes it knows its type."""
        inner = value.get("path") if isinstance(value, Mapping) else value
        if level is None or "${{" not in str(inner):
            return Raw(value, place)
        match = _INPUT.fullmatch(str(inner).strip())
        outer = level.inputs.get(match[1]) if match else None
        return outer if isinstance(outer, Raw) else self._bind(level, InputSpec(name, ""), value, place)

    def _outputs(self, level: _Level) -> dict[str, Upstream]:
        """Return where each output of the job comes from."""
        found = {name: _origin(level.pipeline, name, "") for name in level.pipeline.outputs}
        for name, origin in found.items():
            if origin is None and not level.pipeline.broken:
                self.problems.note(f"{level.pipeline.place.at('outputs', name)} is written by no job")
        return {name: origin for name, origin in found.items() if origin is not None}

    def _in_order(self, pipeline: PipelineComponent) -> list[Step]:
        """Return the steps so that each comes after those that feed it, otherwise as they are written."""
        waiting, order, done = list(self.steps), list[Step](), set[str]()
        known = {step.name for step in waiting}
        while waiting:
            ready = next((step for step in waiting if feeders(step) & known <= done), None)
            if ready is None:
                names = ", ".join(step.name for step in waiting)
                self.problems.add(f"the jobs {names} wait for one another", pipeline.place)
                return order
            waiting.remove(ready)
            done.add(ready.name)
            order.append(ready)
        return order

    # -- steps --

    def _step(self, level: _Level, node: Node, component: CommandComponent) -> Step:
        place = node.place.at("inputs")
        for name in node.inputs:
            if name not in component.inputs and not component.open:
                what = f"'{component.name}' has no input '{name}'"
                self.problems.add(what, place.at(name), near(name, component.inputs))
        specs = component.inputs or {name: InputSpec(name, "", optional=True) for name in node.inputs}
        before = self.refused
        bound = {
            name: self._bind(level, spec, node.inputs.get(name), place.at(name), component.place)
            for name, spec in specs.items()
        }
        values = {name: value for name, value in bound.items() if value is not None and not isinstance(value, Raw)}
        if self.refused == before:
            self._check_command(component, values, node.place)
        own = {f"inputs.{name}" for name in values} | {f"outputs.{name}" for name in component.outputs}
        return Step(
            name=level.prefix + node.name,
            display_name=node.display_name,
            component=component.name,
            version=component.version,
            code=code_digest(f"penala.components.{component.name}") if component.is_ours else "",
            command=component.command,
            environment=component.environment,
            inputs=values,
            outputs=dict(component.outputs),
            deterministic=component.deterministic and self.deterministic,
            resumable=component.tags.get("resumable") == "true",
            exclusive=component.tags.get("exclusive") == "true",
            source=self._source(component),
            **self._settings(level, node, component, own),
        )

    def _check_command(self, component: CommandComponent, values: Mapping[str, Value], place: Place) -> None:
        """Refuse a command that needs an input which has no value, or that cannot be made of values."""
        required, _, _ = placeholders(component.command)
        before = len(self.problems.found)
        for name in sorted(required):
            kind, _, key = name.partition(".")
            if kind == "inputs" and key not in values and (component.open or key in component.inputs):
                fix = f"give it a value, or write $[[... ${{{{{name}}}}}]] in the command"
                self.problems.add(f"the command needs {name}, which has no value", place.at("inputs", key), fix)
        if len(self.problems.found) == before:
            names = [f"inputs.{name}" for name in values] + [f"outputs.{name}" for name in component.outputs]
            with self.problems.collected(component.place.at("command")):
                render(component.command, dict.fromkeys(names, "x"))

    def _source(self, component: CommandComponent) -> str | None:
        with self.problems.collected(component.place.at("code")):
            return self.snapshot(component)
        return None

    def _settings(self, level: _Level, node: Node, component: CommandComponent, own: Collection[str]) -> dict[str, Any]:
        """Return what a step's fields hold of its resources, distribution, limits and variables.

        Variables may have the step's `own` inputs and outputs in them, which are filled in when it starts.
        """
        merged: dict[str, dict[str, Any]] = {}
        for origin, place in ((component.settings, component.place), (node.settings, node.place)):
            for key, values in origin.items():
                known = own if key == "environment_variables" else frozenset()
                for name, value in values.items():
                    at = place.at(key, name)
                    merged.setdefault(key, {})[name] = (self._setting(level, value, at, known), at)
        resources, limits = merged.get("resources", {}), merged.get("limits", {})
        nodes = self._count(resources.get("instance_count"))
        processes = self._processes(merged.get("distribution", {}), nodes, node, component)
        if nodes > 1 and not processes and not component.is_ours:
            self.problems.note(f"{node.place}: without `distribution` its command is started once, not {nodes} times")
        for name, (_, at) in merged.get("environment_variables", {}).items():
            if not name or "=" in name:
                self.problems.add(f"{name!r} is no name for a variable", at, "use letters, digits and _")
        variables = {
            name: "" if value is None else str(value)
            for name, (value, _) in merged.get("environment_variables", {}).items()
        }
        return {
            "variables": variables,
            "processes": processes,
            "nodes": nodes if processes else 1,
            "timeout_s": self._seconds(limits.get("timeout")),
        }

    def _processes(
        self, given: Mapping[str, tuple[Any, Place]], nodes: int, node: Node, component: CommandComponent
    ) -> int:
        """Return the processes a node that `distribution` asks for, 0 when it asks for none."""
        if not given or component.is_ours:  # ours take their number of devices as an input
            return 0
        if "type" not in given:
            self.problems.add("has no type", node.place.at("distribution"), "add `type: pytorch`")
            return 0
        kind = str(given["type"][0]).lower()
        processes = self._count(given.get("process_count_per_instance"))
        if kind == "pytorch":
            return processes
        place = node.place.at("distribution")
        if kind not in ("mpi", "tensorflow", "ray"):
            self.problems.add(f"is of unknown type '{kind}'", place, "use pytorch")
        elif kind == "ray" or nodes * processes * self._count(given.get("worker_count")) > 1:
            self.problems.add(f"is of type {kind}, which this workspace does not start", place, "use pytorch")
        return 0

    def _count(self, given: tuple[Any, Place] | None) -> int:
        if given is None or given[0] is None:
            return 1
        with self.problems.collected(given[1]):
            return int(InputSpec("count", "integer", minimum=1).parse(given[0], where=str(given[1])))
        return 1

    def _seconds(self, given: tuple[Any, Place] | None) -> float | None:
        """Return a timeout; the SDK writes seconds, the service ISO 8601, such as PT1H."""
        if given is None or given[0] is None:
            return None
        text, seconds = str(given[0]).strip(), 0.0
        if (match := _DURATION.fullmatch(text)) and any(match.groups()):
            days, hours, minutes, rest = (int(part or 0) for part in match.groups())
            seconds = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        if seconds > 0:
            return seconds
        self.problems.add(f"is {text!r}", given[1], "write seconds, above 0")
        return None

    def _setting(self, level: _Level, value: Any, place: Place, own: Collection[str] = ()) -> Any:
        """Return a setting with the pipeline's inputs filled in, and without the step's own ones."""
        if isinstance(value, str) and "${{" in value:
            try:
                return self._filled(level, value, place, own)
            except _Refused as refused:
                self.problems.add(refused.what, refused.place, refused.fix)
                return None
        return value

    # -- inputs --

    def _bind(
        self, level: _Level | None, spec: InputSpec, value: Any, place: Place, declared: Place | None = None
    ) -> Bound | None:
        """Return what an input is bound to, else its default; None when it has neither, or when that is a problem.

        A `spec` without a type takes whatever it is bound to. `declared` is where the default stands.
        """
        try:
            bound = self._resolved(level, spec, value, place)
            if bound is None and spec.default is not None and declared is not None:
                return self._typed(spec, spec.default, declared.at("inputs", spec.name))
        except _Refused as refused:
            self.refused += 1
            if refused.what:
                self.problems.add(refused.what, refused.place, refused.fix)
            return None
        if bound is None and not spec.optional and spec.type:
            self.refused += 1
            source = _INPUT.search(str(value))
            self.problems.add("needs a value", place, f"give the pipeline's input '{source[1]}' one" if source else "")
        return bound

    def _resolved(self, level: _Level | None, spec: InputSpec, value: Any, place: Place) -> Bound | None:
        """Return what a value that stands at a place is for `spec`, None when it is not given. Raises _Refused."""
        kind = spec.type
        if isinstance(value, Mapping):
            kind = kind or str(value.get("type") or _inferred(value)).lower()
            value = self._inner(spec, value, place)
        if value is None:
            return None
        if isinstance(value, list):
            raise _Refused(place, "is a list", "give one value")
        if level is not None and isinstance(value, str) and "${{" in value:
            if match := _JOB_OUTPUT.fullmatch(value.strip()):
                return self._fitting(spec, self._upstream(level, match[1], match[2], place), place)
            if match := _INPUT.fullmatch(value.strip()):
                return self._parent(level, spec, match[1], place)
            value = self._filled(level, value, place)
        return self._typed(spec if spec.type else InputSpec(spec.name, kind), value, place)

    def _inner(self, spec: InputSpec, value: Mapping[str, Any], place: Place) -> Any:
        """Return what an input in long form holds: a path, or a literal."""
        self.problems.check_keys(map(str, value), _LONG_FORM, place)
        kind = str(value.get("type") or "").lower()
        if spec.type and spec.type not in DATA_TYPES and kind in DATA_TYPES:
            raise _Refused(place, f"takes a {spec.type}, but is given a {kind}", "give a value")
        if kind and kind not in DATA_TYPES | LITERAL_TYPES:
            raise _Refused(place.at("type"), f"is of unknown type '{kind}'", near(kind, DATA_TYPES | LITERAL_TYPES))
        mode = value.get("mode")
        if mode is not None and str(mode).lower() not in MODES:
            raise _Refused(place.at("mode"), f"is {mode!r}", near(str(mode), MODES) or f"use {', '.join(MODES)}")
        return next((value[key] for key in ("path", "value", "default") if value.get(key) is not None), None)

    def _parent(self, level: _Level, spec: InputSpec, name: str, place: Place) -> Bound | None:
        """Return an input of the pipeline as `spec` takes it."""
        if name not in level.inputs:
            what = f"the pipeline has no input '{name}'"
            raise _Refused(place, what, near(name, level.inputs) or "declare it under `inputs`")
        bound = level.inputs[name]
        if isinstance(bound, Raw):
            return self._resolved(None, spec, bound.value, bound.place)
        if isinstance(bound, Literal) and spec.type in LITERAL_TYPES:
            return self._typed(spec, bound.text, place)
        return None if bound is None else self._fitting(spec, bound, place)

    def _fitting(self, spec: InputSpec, bound: Value, place: Place) -> Value:
        """Refuse a literal for data, and data for a literal."""
        if spec.type and isinstance(bound, Literal) == spec.is_data:
            what = f"the value {bound.text!r}" if isinstance(bound, Literal) else "a file or folder"
            raise _Refused(place, f"takes a {spec.type}, but is given {what}", None)
        return bound

    def _typed(self, spec: InputSpec, value: Any, place: Place) -> Value:
        """Return a given value as its input's type."""
        try:
            if not spec.is_data:
                literal = spec if spec.type else InputSpec(spec.name, "string")
                return Literal(self._short(literal.text(value, where=str(place)), place))
            if isinstance(value, str | Path):
                return self.files(str(value), spec.type, place)
        except PenalaError as error:
            where = "" if error.where in (None, str(place)) else f"{error.where}: "
            raise _Refused(place, where + error.what, error.fix) from None
        raise _Refused(place, f"is {value!r}", f"give the path of a {spec.type}")

    def _short(self, text: str, place: Place) -> str:
        """Refuse a text that no program can be given."""
        if "\0" in text:
            raise _Refused(place, "holds a NUL character", "no program can be given one")
        if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
            raise _Refused(place, f"is longer than {MOST_BYTES} bytes", "put it into a file, and give that")
        return text

    def _filled(self, level: _Level, text: str, place: Place, own: Collection[str] = ()) -> str:
        """Return a text with the values of the pipeline's inputs in it; placeholders of `own` stay."""
        kept = dict.fromkeys(own, "")

        def value(match: re.Match[str]) -> str:
            bound = self._parent(level, InputSpec(match[1], "string"), match[1], place)
            return bound.text if isinstance(bound, Literal) else ""

        filled = _INPUT.sub(lambda match: match[0] if not fill(match[0], kept) else value(match), text)
        if "${{" in fill(filled, kept):
            raise _Refused(place, f"is {text}", _USE)
        return filled

    def _upstream(self, level: _Level, job: str, output: str, place: Place) -> Upstream:
        """Return the output of another job of the pipeline."""
        pipeline = level.pipeline
        if job not in pipeline.nodes:
            if job in pipeline.broken:
                raise _Refused(place, "", None)
            raise _Refused(place, f"there is no job '{job}'", near(job, pipeline.nodes) or _listed(pipeline.nodes))
        if found := _written(pipeline.nodes[job], output, level.prefix):
            return found
        component = pipeline.nodes[job].component
        if output == ARTIFACTS and isinstance(component, CommandComponent) and not component.is_ours:
            self.gathering.add(level.prefix + job)
            return Upstream(level.prefix + job, output)
        outputs = component.outputs
        fix = near(output, outputs) or _listed(outputs)
        raise _Refused(place, f"job '{job}' has no output '{output}'", fix)


class _Refused(Exception):
    """A value that cannot be used, and where it stands; nothing to tell when it comes from a job that is a problem."""

    def __init__(self, place: Place, what: str, fix: str | None) -> None:
        super().__init__(what)
        self.place, self.what, self.fix = place, what, fix


def _origin(pipeline: PipelineComponent, output: str, prefix: str) -> Upstream | None:
    """Return the step's output that a pipeline's output is, None when no step writes it."""
    for node in pipeline.nodes.values():
        for name, binding in node.outputs.items():
            if binding.target == output:
                return _written(node, name, prefix)
    return None


def _written(node: Node, output: str, prefix: str) -> Upstream | None:
    """Return the step's output that an output of a pipeline's job is, None when there is none."""
    if isinstance(node.component, PipelineComponent):
        return _origin(node.component, output, f"{prefix}{node.name}.")
    return Upstream(prefix + node.name, output) if output in node.component.outputs else None


def _inferred(value: Mapping[str, Any]) -> str:
    """Return the type of an input in long form that does not say it; what lies at its path may be a folder, too."""
    return "uri_file" if value.get("path") is not None and "${{" not in str(value["path"]) else ""


def _listed(names: Mapping[str, Any]) -> str | None:
    return f"there are {', '.join(names)}" if names else None
