"""Jobs of the SDK as the documents that a workspace reads: `Job.dump()`, with its paths made absolute."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from azure.ai.ml import load_component
from azure.ai.ml.entities import Job, PipelineComponent

from penala.azure.failures import refusal
from penala.workspace.components import SHIPPED

_BOUND = "${{"
_SAID = ("name", "display_name", "experiment_name", "description", "tags", "properties")


def as_document(job: Job) -> dict[str, Any]:
    """Return the whole job as one document of the public job schema; nothing of it names a file by a relative path."""
    document = dumped(job)
    _require_inputs(job, document.get("inputs") or {})
    for key in _SAID:  # `command(...)` makes the step of a pipeline, whose dump leaves out what a job says of itself
        if key not in document and (said := getattr(job, key, None)):
            document[key] = dict(said) if isinstance(said, Mapping) else said
    base = Path(str(job.base_path)).resolve()
    _settle_code(document, base)
    _settle_code(document.get("component"), base)
    for key in ("inputs", "training_data", "validation_data"):
        if key in document:
            document[key] = _absolute(document[key], base)
    _settle_nodes(document, job, base)
    return document


def dumped(entity: Any) -> dict[str, Any]:
    """Return what an entity dumps, as a mapping."""
    text = io.StringIO()
    entity.dump(text)
    document: dict[str, Any] = yaml.safe_load(text.getvalue())
    return document


def _require_inputs(job: Job, given: Mapping[str, Any]) -> None:
    """Refuse a pipeline without a value that it needs: the dump knows nothing of an input that was not given."""
    component = getattr(job, "component", None)
    if not isinstance(component, PipelineComponent):
        return
    names = {name.partition(".")[0] for name in given}  # a group's are flat
    for name, declared in component.inputs.items():
        if name not in names and not declared.get("optional") and declared.get("default") is None:
            raise refusal(f"the pipeline needs a value for its input '{name}'")


def _settle_nodes(document: dict[str, Any], pipeline: Any, base: Path) -> None:
    """Make the paths of a pipeline's steps absolute, and name the components that penala ships instead of a copy."""
    for name, node in document.get("jobs", {}).items():
        node["inputs"] = _absolute(node.get("inputs") or {}, base)
        if title := getattr(pipeline.jobs[name], "display_name", None):
            node["display_name"] = str(title)  # the dump leaves it out
        component = node.get("component")
        if not isinstance(component, dict):
            continue
        _respell_switches(node["inputs"], pipeline.jobs[name].component.inputs)
        if (shipped := _shipped(component)) is not None:
            node["component"] = shipped
            continue
        inner = pipeline.jobs[name].component
        home = Path(str(inner.base_path)).resolve()
        if "jobs" in component:
            _settle_nodes(component, inner, home)
        else:
            _settle_code(component, home)


def _respell_switches(given: dict[str, Any], declared: Mapping[str, Any]) -> None:
    """Write true and false into inputs that take these two texts; the SDK dumps Python's True and False as 1 and 0."""
    for name, value in given.items():
        enum = (declared.get(name) or {}).get("enum") or ()
        if value in (0, 1) and sorted(map(str, enum)) == ["false", "true"]:
            given[name] = "true" if value else "false"


def _settle_code(component: Any, base: Path) -> None:
    """Make the path of a code folder absolute; before one that is not there the SDK writes `azureml:`."""
    code = component.get("code") if isinstance(component, dict) else None
    if isinstance(code, str) and code.startswith(("azureml:.", ".")):
        component["code"] = str(base / code.removeprefix("azureml:"))


def _shipped(component: Mapping[str, Any]) -> str | None:
    """Return the id of the component that penala ships, where `component` is a copy of it; else None."""
    file = SHIPPED / f"{component.get('name')}.yaml"
    if not file.is_file() or dumped(load_component(file)) != component:
        return None
    return f"azureml:{component['name']}:{component['version']}"


def _absolute(value: Any, base: Path) -> Any:
    """Return inputs with their relative paths, before which the SDK writes `azureml:`, made absolute."""
    if not isinstance(value, Mapping):
        return value
    made = {key: _absolute(inner, base) for key, inner in value.items()}
    path = made.get("path")
    if isinstance(path, str) and _BOUND not in path:
        bare = path.removeprefix("azureml:")
        if bare.startswith(".") or (base / bare).exists():
            made["path"] = str(base / bare)
    return made
