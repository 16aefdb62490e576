"""Components, read from YAML in Azure ML's command and pipeline component schemas: penala's own and a user's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from penala.errors import NotFound, UsageError, near
from penala.inputs import InputSpec, input_spec
from penala.workspace.commands import placeholders

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is seven times as fast


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
    file: Path


@dataclass(frozen=True, slots=True)
class Node:
    """A command of a pipeline: what its inputs are bound to, and which of its outputs are the pipeline's."""

    name: str
    display_name: str
    component: CommandComponent
    inputs: Mapping[str, Any]  # literal or ${{parent...}}
    outputs: Mapping[str, str]  # name -> ${{parent.outputs...}}


@dataclass(frozen=True, slots=True)
class PipelineComponent:
    """Commands that feed one another; `outputs` maps each name to its type."""

    name: str
    version: str
    display_name: str
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, str]
    nodes: Mapping[str, Node] = field(default_factory=dict)
    file: Path = Path()


def shipped_pipeline(name: str) -> PipelineComponent:
    """Return a pipeline component that penala ships; raise NotFound for a name that it does not."""
    folder = Path(str(files("penala.components")))
    if not (folder / f"{name}.yaml").is_file():
        known = [file.stem for file in folder.glob("*.yaml")]
        raise NotFound(f"there is no component '{name}'", fix=near(name, known) or f"use {', '.join(sorted(known))}")
    return read_pipeline(folder / f"{name}.yaml")


def read_pipeline(file: Path) -> PipelineComponent:
    """Read a pipeline component and the command components that it names.

    Raises UsageError with the file and the key of what is missing or out of scope.
    """
    document = _document(file, "pipeline")
    nodes = {}
    for name, job in _mapping(document, "jobs", file).items():
        where = f"{file}: jobs.{name}"
        if not isinstance(job, Mapping):
            raise UsageError("is not a mapping", where=where)
        if job.get("type", "command") != "command":
            raise UsageError(f"is of type {job['type']}", where=where, fix="only command jobs can be run")
        reference = job.get("component")
        if not isinstance(reference, str) or reference.startswith("azureml:"):
            raise UsageError(f"has the component {reference!r}", where=where, fix="name a component's YAML file")
        component = read_command(file.parent / reference.removeprefix("file:"))
        nodes[name] = Node(
            name=name,
            display_name=str(job.get("display_name", component.display_name)),
            component=component,
            inputs=_mapping(job, "inputs", file, f"jobs.{name}.inputs"),
            outputs={key: _target(value) for key, value in _mapping(job, "outputs", file).items()},
        )
    return PipelineComponent(nodes=nodes, file=file, **_common(document, file))


def read_command(file: Path) -> CommandComponent:
    """Read a command component; its command may only use inputs and outputs that it declares.

    Raises UsageError with the file and the key of what is missing or wrong.
    """
    document = _document(file, "command")
    common = _common(document, file)
    command = document.get("command")
    if not isinstance(command, str) or not command.strip():
        raise UsageError("there is no command", where=str(file), fix="add `command:`")
    _check_placeholders(command, common["inputs"], common["outputs"], file)
    return CommandComponent(
        command=command,
        environment=str(document.get("environment", "")),
        deterministic=bool(document.get("is_deterministic", True)),
        tags={key: str(value) for key, value in _mapping(document, "tags", file).items()},
        file=file,
        **common,
    )


def _common(document: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return what both kinds of component have."""
    name = document.get("name")
    if not isinstance(name, str):
        raise UsageError("the component has no name", where=str(file), fix="add `name:`")
    return {
        "name": name,
        "version": str(document.get("version", "1")),
        "display_name": str(document.get("display_name", name)),
        "inputs": _declared(document, "inputs", file, lambda key, value: input_spec(key, value)),
        "outputs": _declared(document, "outputs", file, lambda _, value: str(value.get("type", "uri_folder"))),
    }


def _declared(
    document: Mapping[str, Any], key: str, file: Path, read: Callable[[str, Mapping[str, Any]], Any]
) -> dict[str, Any]:
    found = {}
    for name, value in _mapping(document, key, file).items():
        if not isinstance(value, Mapping):
            raise UsageError("is not a mapping", where=f"{file}: {key}.{name}", fix="write {type: ...}")
        found[name] = read(name, value)
    return found


def _check_placeholders(command: str, inputs: Mapping[str, InputSpec], outputs: Mapping[str, str], file: Path) -> None:
    required, optional = placeholders(command)
    known = {f"inputs.{name}" for name in inputs} | {f"outputs.{name}" for name in outputs}
    for name in sorted(required | optional):
        if name not in known:
            raise UsageError(f"the command uses {name}, which is not declared", where=str(file), fix=near(name, known))
        if name in required and name.startswith("inputs.") and inputs[name.removeprefix("inputs.")].optional:
            fix = f"write $[[... ${{{{{name}}}}}]]"
            raise UsageError(f"the command always uses {name}, which is optional", where=str(file), fix=fix)


def _target(value: Any) -> str:
    """Return what a node's output is bound to; Azure ML also writes it as {type, path}."""
    return str(value.get("path", "")) if isinstance(value, Mapping) else str(value)


def _document(file: Path, kind: str) -> Mapping[str, Any]:
    try:
        loaded = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise UsageError("there is no such component file", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the component cannot be read: {error}", where=str(file)) from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = str(file) if line is None else f"{file}:{line + 1}"
        raise UsageError(f"is not YAML: {getattr(error, 'problem', error)}", where=place) from None
    if not isinstance(loaded, Mapping):
        raise UsageError("is not a component", where=str(file), fix="write Azure ML's component YAML")
    found = loaded.get("type", "pipeline" if "jobs" in loaded else "command")
    if found != kind:
        raise UsageError(f"is a component of type {found}", where=str(file), fix=f"give one of type {kind}")
    return loaded


def _mapping(parent: Mapping[str, Any], key: str, file: Path, path: str | None = None) -> Mapping[str, Any]:
    value = parent.get(key) or {}
    if not isinstance(value, Mapping):
        raise UsageError("is not a mapping", where=f"{file}: {path or key}")
    return value
