"""A recipe as Azure ML's YAML: what `az ml job create -f` takes, and `penala jobs create -f` too."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from azure.ai.ml import load_component, load_compute, load_job, load_online_deployment, load_online_endpoint

from penala.azure.remote.conversations import SPLITS
from penala.azure.remote.offline import deployment_problems, size_problems
from penala.azure.remote.own_components import write_components
from penala.azure.remote.preflight import CLUSTER_INPUTS
from penala.azure.remote.serve import LIVENESS, READINESS
from penala.azure.remote.submit import OUTPUT
from penala.errors import PenalaError, UsageError
from penala.inputs import PIPELINE, component_inputs
from penala.recipe import AzureML, Recipe
from penala.workspace.client import Workspace
from penala.workspace.run import pipeline_inputs, preflight
from penala.workspace.sizes import find_size

INSTANCE = "Standard_DS4_v2"  # where the recipe names no size for its deployment
_SCHEMAS = "https://azuremlschemas.azureedge.net/latest"
_LOADERS: Mapping[str, Callable[[Path], Any]] = {
    "job.yml": load_job,
    "compute.yml": load_compute,
    "endpoint.yml": load_online_endpoint,
    "deployment.yml": load_online_deployment,
}


def export(
    recipe: Recipe, folder: Path, workspace: Workspace, report: Callable[[dict[str, Any]], None] = lambda event: None
) -> list[Path]:
    """Write the job, its components, its compute, and its endpoint with a deployment into a new or empty folder.

    Everything is checked as it is before a run, and read back with the SDK's own loaders. Conversations stay where they
    are, but where a split is several files; those of a hub are fetched into the workspace's cache. Returns the files
    but for the components. Raises UsageError for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("is not empty", where=str(folder), fix="name a new folder")
    checked = preflight(recipe, workspace)
    for note in checked.notes:
        report({"event": "note", "text": note})
    for problem in _refused_there(recipe):
        report({"event": "note", "text": f"warning: {problem}"})
    machines, cluster = _machines(recipe), _cluster(recipe)
    if recipe.endpoint is not None:
        if recipe.azureml is None or recipe.azureml.instance_type is None:
            text = f"deployment.yml says {INSTANCE}; azureml.instance_type of the recipe chooses another size"
            report({"event": "note", "text": text})
        machines |= {"endpoint.yml": _endpoint(recipe), "deployment.yml": _deployment(recipe)}
    inputs = pipeline_inputs(workspace, recipe, checked, report)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = _one_file_each(recipe, inputs, folder / "data", report) | cluster
    load_component(write_components(folder / "components"))
    documents = {"job.yml": _job(recipe, folder, inputs), **machines}
    for name, document in documents.items():
        file = folder / name
        file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10_000), encoding="utf-8")
        _LOADERS[name](file)
    return [folder / name for name in documents]


def _refused_there(recipe: Recipe) -> list[PenalaError]:
    """Return why `run --on azureml` would refuse the machines."""
    given = recipe.azureml or AzureML()
    given = given.model_copy(update={"instance_type": given.instance_type or INSTANCE})
    found = size_problems(given.compute.size, "azureml.compute.size", "penala", given) if given.compute else []
    return found if recipe.endpoint is None else [*found, *deployment_problems(recipe, given)]


def _one_file_each(
    recipe: Recipe, inputs: dict[str, Any], folder: Path, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Write all splits into `folder` where one is a folder, which the SDK does not send as a uri_file."""
    from penala.conversations.check import check, require
    from penala.conversations.conversation import write_jsonl

    paths = {split: Path(inputs[name]) for split in SPLITS if (name := f"{split}_file_path") in inputs}
    if all(path.is_file() for path in paths.values()):
        return inputs
    folder.mkdir()
    said, written = recipe.conversations, dict[str, Any](conversation_schema="messages")
    for split, path in paths.items():
        checked = check([path], schema=said.schema_, columns=said.columns)
        require(checked, split=split, on_bad_row=said.on_bad_row)
        file = folder / f"{split}.jsonl"
        with file.open("wb") as lines:
            write_jsonl(lines, checked.conversations)
        written[f"{split}_file_path"] = str(file)
    report({"event": "note", "text": f"{folder} holds the conversations as JSON lines: Azure takes one file a split"})
    return {name: value for name, value in inputs.items() if name != "column_mapping"} | written


def _job(recipe: Recipe, folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    specs = component_inputs(PIPELINE)
    data, literals = {}, {}
    for name, value in inputs.items():
        spec = specs[name]
        if spec.is_data:
            data[name] = {"type": spec.type, "path": os.path.relpath(value, folder)}
        elif spec.default is None or spec.text(value) != spec.text(spec.default):
            literals[name] = spec.text(value)
    step = {
        "type": "pipeline",
        "component": f"./components/{PIPELINE}.yaml",
        "inputs": {name: f"${{{{parent.inputs.{name}}}}}" for name in data} | literals,
        "outputs": {"mlflow_model_folder": f"${{{{parent.outputs.{OUTPUT}}}}}"},
    }
    registered = {"name": recipe.model_name} | (
        {"version": recipe.model.version} if recipe.model and recipe.model.version else {}
    )
    return {
        "$schema": f"{_SCHEMAS}/pipelineJob.schema.json",
        "type": "pipeline",
        "display_name": recipe.model_name,
        "experiment_name": recipe.model_name,
        "settings": {"force_rerun": recipe.settings.force_rerun, "continue_on_step_failure": False},
        "inputs": data,
        "outputs": {OUTPUT: {"type": "mlflow_model", **registered}},
        "jobs": {PIPELINE: step},
    }


def _cluster(recipe: Recipe) -> dict[str, Any]:
    """Return the inputs that say where the steps run on Azure."""
    wanted = (recipe.azureml or AzureML()).compute
    if wanted is None:
        return {}
    gpus = max(find_size(wanted.size).gpus, 1)
    return dict.fromkeys(CLUSTER_INPUTS, wanted.name) | {"number_of_gpu_to_use_finetuning": gpus}


def _machines(recipe: Recipe) -> dict[str, Any]:
    wanted = (recipe.azureml or AzureML()).compute
    if wanted is None:
        return {}
    cluster = {
        "$schema": f"{_SCHEMAS}/amlCompute.schema.json",
        "type": "amlcompute",
        "name": wanted.name,
        "size": wanted.size,
        "min_instances": wanted.min_instances,
        "max_instances": wanted.max_instances,
        "idle_time_before_scale_down": wanted.idle_seconds,
        "tier": wanted.tier,
    }
    return {"compute.yml": cluster}


def _endpoint(recipe: Recipe) -> dict[str, Any]:
    assert recipe.endpoint is not None
    return {
        "$schema": f"{_SCHEMAS}/managedOnlineEndpoint.schema.json",
        "name": recipe.endpoint.name,
        "auth_mode": "key",
        "description": f"{recipe.model_name}, fine-tuned with penala",
    }


def _deployment(recipe: Recipe) -> dict[str, Any]:
    assert recipe.endpoint is not None
    given = recipe.azureml or AzureML()
    version = recipe.model.version if recipe.model else None
    return {
        "$schema": f"{_SCHEMAS}/managedOnlineDeployment.schema.json",
        "name": recipe.endpoint.deployment,
        "endpoint_name": recipe.endpoint.name,
        "model": f"azureml:{recipe.model_name}" + (f":{version}" if version else "@latest"),
        "instance_type": given.instance_type or INSTANCE,
        "instance_count": given.instance_count,
        "liveness_probe": dict(LIVENESS),
        "readiness_probe": dict(READINESS),
        "request_settings": recipe.endpoint.request_settings.model_dump(),
    }
