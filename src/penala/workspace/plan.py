"""The plan of a job: every step with all that goes into it, checked before the first process starts.

A plan is plain data. It is stored with its job, so that whoever carries it on needs neither YAML nor the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from penala.errors import UsageError, near
from penala.workspace.artifacts import code_digest, digest, digest_of

if TYPE_CHECKING:
    from penala.inputs import InputSpec
    from penala.workspace.components import Node, PipelineComponent

_PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}")
_PARENT_OUTPUT = re.compile(r"\$\{\{\s*parent\.outputs\.(\w+)\s*\}\}")
_JOB_OUTPUT = re.compile(r"\$\{\{\s*parent\.jobs\.(\w+)\.outputs\.(\w+)\s*\}\}")
_FOLDER_TYPES = frozenset({"uri_folder", "mlflow_model", "mltable"})


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that the command gets as text."""

    text: str


@dataclass(frozen=True, slots=True)
class File:
    """A file or folder of the user's, with the digest that it had when the plan was made."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """An output of an earlier step."""

    step: str
    output: str


Value: TypeAlias = Literal | File | Upstream


@dataclass(frozen=True, slots=True)
class Step:
    """One command with all that goes into it; `outputs` maps each name to its type."""

    name: str
    display_name: str
    component: str
    version: str
    code: str  # digest of the code that the command runs
    command: str  # template, see `commands.render`
    environment: str
    inputs: Mapping[str, Value]
    outputs: Mapping[str, str]
    deterministic: bool = True
    resumable: bool = False  # a later attempt finds what an earlier one wrote into the outputs
    exclusive: bool = False  # runs alone: it uses every core
    source: str | None = None  # artifact of the code folder that the command's working folder is a copy of
    variables: Mapping[str, str] = field(default_factory=dict)  # of the environment
    processes: int = 0  # that `distribution: pytorch` starts on each node; 0: the command is started as it is
    nodes: int = 1
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A job before it starts: `steps` in an order in which they can run. A command job is a plan of one step."""

    name: str
    version: str
    display_name: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Upstream]
    kind: str = "pipeline"  # or command, finetuning
    slots: int = 1  # steps that may run side by side
    continue_on_step_failure: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, for the job's row."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote."""
        steps = tuple(
            Step(**{**step, "inputs": {name: _value(given) for name, given in step["inputs"].items()}})
            for step in value["steps"]
        )
        outputs = {name: Upstream(**given) for name, given in value["outputs"].items()}
        return cls(**{**value, "steps": steps, "outputs": outputs})

    @property
    def digest(self) -> str:
        """Identity of the plan: the same components with the same inputs, files by content."""
        return digest(["plan/1", self.to_json()])

    def output_type(self, name: str) -> str:
        """Return the type of one of the pipeline's outputs."""
        bound = self.outputs[name]
        return next(step.outputs[bound.output] for step in self.steps if step.name == bound.step)


def _value(given: Mapping[str, str]) -> Value:
    kind = Literal if "text" in given else File if "path" in given else Upstream
    return kind(**given)


def make_plan(
    pipeline: PipelineComponent,
    inputs: Mapping[str, Any],
    *,
    folder: Path,
    digest_path: Callable[[Path], str] = digest_of,
) -> Plan:
    """Plan a job of `pipeline` with these inputs; relative paths start at `folder`.

    Raises UsageError or RecipeError for an input that is unknown, missing, of the wrong type or outside its limits,
    for a file that does not exist, and for steps that wait for one another.
    """
    given = _given(pipeline, inputs, folder, digest_path)
    steps = [_step(pipeline, node, given) for node in pipeline.nodes.values()]
    return Plan(
        name=pipeline.name,
        version=pipeline.version,
        display_name=pipeline.display_name,
        steps=tuple(_in_order(pipeline, steps)),
        outputs=_outputs(pipeline),
    )


def _given(
    pipeline: PipelineComponent, inputs: Mapping[str, Any], folder: Path, digest_path: Callable[[Path], str]
) -> dict[str, Value]:
    """Return a value for each input of the pipeline that is given or has a default."""
    for name in inputs:
        if name not in pipeline.inputs:
            raise UsageError(f"has no input '{name}'", where=pipeline.name, fix=near(name, pipeline.inputs) or None)
    found: dict[str, Value] = {}
    for name, spec in pipeline.inputs.items():
        value = inputs.get(name)
        value = spec.default if value is None else value
        if value is not None:
            found[name] = _parsed(spec, value, f"{pipeline.name} inputs.{name}", folder, digest_path)
        elif not spec.optional:
            raise UsageError("needs a value", where=f"{pipeline.name} inputs.{name}")
    return found


def _parsed(
    spec: InputSpec, value: Any, where: str, folder: Path, digest_path: Callable[[Path], str]
) -> Literal | File:
    """Return a given value as its input's type."""
    if not spec.is_data:
        text = str(spec.parse(value, where=where))
        if "\0" in text:
            raise UsageError("holds a NUL character", where=where, fix="no program can be given one")
        return Literal(text)
    if isinstance(value, Mapping):
        value = value.get("path")
    if not isinstance(value, str | Path) or re.match(r"[a-z]+:", str(value)):
        raise UsageError(f"is {value!r}", where=where, fix="give the path of a local file or folder")
    path = (folder / Path(value).expanduser()).absolute()
    if not path.exists():
        raise UsageError("does not exist", where=str(path), fix=f"it was given as {where}")
    if spec.type in _FOLDER_TYPES and not path.is_dir():
        raise UsageError("is a file", where=str(path), fix=f"{where} takes a folder")
    return File(str(path), digest_path(path))


def _step(pipeline: PipelineComponent, node: Node, given: Mapping[str, Value]) -> Step:
    component = node.component
    for name in node.inputs:
        if name not in component.inputs:
            where = f"{pipeline.name} jobs.{node.name}.inputs"
            raise UsageError(f"'{component.name}' has no input '{name}'", where=where, fix=near(name, component.inputs))
    values = {}
    for name, spec in component.inputs.items():
        value = _bound(pipeline, node, spec, given)
        if value is not None:
            values[name] = value
    return Step(
        name=node.name,
        display_name=node.display_name,
        component=component.name,
        version=component.version,
        code=code_digest() if _is_ours(component.file) else "",
        command=component.command,
        environment=component.environment,
        inputs=values,
        outputs=dict(component.outputs),
        deterministic=component.deterministic,
        resumable=component.tags.get("resumable") == "true",
    )


def _bound(pipeline: PipelineComponent, node: Node, spec: InputSpec, given: Mapping[str, Value]) -> Value | None:
    """Return what a step's input is bound to, else its default; None when it is optional and has neither."""
    where = f"{pipeline.name} jobs.{node.name}.inputs.{spec.name}"
    value = node.inputs.get(spec.name)
    source = ""
    if isinstance(value, str) and (found := _JOB_OUTPUT.fullmatch(value)):
        return _upstream(pipeline, found[1], found[2], where)
    if isinstance(value, str) and (found := _PARENT_INPUT.fullmatch(value)):
        source = found[1]
        if source not in pipeline.inputs:
            fix = near(source, pipeline.inputs) or None
            raise UsageError(f"'{pipeline.name}' has no input '{source}'", where=where, fix=fix)
        bound = given.get(source)
        if bound is not None:
            return bound if isinstance(bound, File) else _checked(spec, bound, where)
        value = None
    elif isinstance(value, str) and "${{" in value:
        raise UsageError(f"is {value}", where=where, fix="use ${{parent.inputs.X}} or ${{parent.jobs.X.outputs.Y}}")
    value = spec.default if value is None else value
    if value is not None:
        return _parsed(spec, value, where, pipeline.file.parent, digest_of)
    if not spec.optional:
        fix = f"give the input '{source}' of {pipeline.name}" if source else "bind it in the pipeline's YAML"
        raise UsageError("needs a value", where=where, fix=fix)
    return None


def _checked(spec: InputSpec, bound: Value, where: str) -> Value:
    """Check a pipeline's literal against the step's own type and limits."""
    if isinstance(bound, Literal) and not spec.is_data:
        return Literal(str(spec.parse(bound.text, where=where)))
    raise UsageError(f"takes a {spec.type}, but is given {bound}", where=where)


def _upstream(pipeline: PipelineComponent, step: str, output: str, where: str) -> Upstream:
    if step not in pipeline.nodes:
        raise UsageError(f"there is no job '{step}'", where=where, fix=near(step, pipeline.nodes) or None)
    outputs = pipeline.nodes[step].component.outputs
    if output not in outputs:
        raise UsageError(f"job '{step}' has no output '{output}'", where=where, fix=near(output, outputs) or None)
    return Upstream(step, output)


def _in_order(pipeline: PipelineComponent, steps: list[Step]) -> Iterator[Step]:
    """Yield the steps so that each comes after those that feed it, otherwise as they are written."""
    done: set[str] = set()
    while steps:
        ready = next((step for step in steps if feeders(step) <= done), None)
        if ready is None:
            names = ", ".join(step.name for step in steps)
            raise UsageError(f"the jobs {names} wait for one another", where=pipeline.name)
        steps.remove(ready)
        done.add(ready.name)
        yield ready


def feeders(step: Step) -> set[str]:
    """Return the names of the steps whose outputs a step takes."""
    return {value.step for value in step.inputs.values() if isinstance(value, Upstream)}


def _outputs(pipeline: PipelineComponent) -> dict[str, Upstream]:
    """Return where each output of the pipeline comes from."""
    found = {}
    for node in pipeline.nodes.values():
        for output, target in node.outputs.items():
            match = _PARENT_OUTPUT.fullmatch(target)
            where = f"{pipeline.name} jobs.{node.name}.outputs.{output}"
            if match is None or match[1] not in pipeline.outputs:
                raise UsageError(f"is {target}", where=where, fix="use ${{parent.outputs.X}} of a declared output")
            found[match[1]] = _upstream(pipeline, node.name, output, where)
    return found


def _is_ours(file: Path) -> bool:
    return file.parent == Path(__file__).parents[1] / "components"
