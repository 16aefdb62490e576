"""All that Azure can tell before anything is billed: what runs, on what, and what speaks against it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from azure.core.exceptions import ResourceNotFoundError

from penala.azure.remote import base_model
from penala.azure.remote.base_model import SYSTEM_REGISTRY, Components, Purpose
from penala.azure.remote.cluster import allowed, compute_problems, costs
from penala.azure.remote.connection import Connection
from penala.azure.remote.offline import Here, is_cut, refuse
from penala.azure.remote.plan import RemotePlan
from penala.azure.remote.reasons import during
from penala.errors import PenalaError, RecipeError, WorkspaceError, near
from penala.inputs import PIPELINE, component_inputs
from penala.recipe import AzureML, Recipe, resolve_finetuning

CLUSTER_INPUTS = ("compute_model_import", "compute_preprocess", "compute_finetune", "compute_model_evaluation")


def check_there(
    connection: Connection, recipe: Recipe, here: Here, components: Components, *, deploy: bool, sent: bool = False
) -> RemotePlan:
    """Ask Azure what it knows, and return the plan. Nothing is created. Raises what speaks against it, all at once.

    For a job that was `sent` before, only what comes after it is looked at.
    """
    given = recipe.azureml
    assert given is not None
    assert given.compute is not None
    with during(f"opening the workspace {connection.target.workspace}", WorkspaceError):
        connection.ml.workspaces.get(connection.target.workspace)
    model = base_model.look_up(connection, recipe, components)
    plan = RemotePlan(
        connection=connection,
        components=components,
        component=_azures_pipeline(connection) if components == "azureml" else None,
        model=model,
        literals={},
        here=here,
        compute=given.compute,
        new_compute=False,
        notes=[*here.notes, *here.checked.notes, *model.notes],
    )
    problems = []
    if not sent:
        problems += _model_problems(plan, given, "finetune")
        problems += _fill_literals(plan, recipe)
        problems += compute_problems(plan)
        problems += _version_problems(plan, recipe)
    if deploy and recipe.endpoint is not None and given.instance_type is not None:
        problems += _model_problems(plan, given, "inference")
        problems += allowed(plan, given.instance_type, "azureml.instance_type", "inference")
        _note_endpoint(plan, recipe)
    refuse(recipe, problems)
    plan.costs = costs(plan, recipe, given, deploy=deploy)
    return plan


def _azures_pipeline(connection: Connection) -> Any:
    registry = connection.registry(SYSTEM_REGISTRY)
    with during(f"looking up {PIPELINE} in the registry {SYSTEM_REGISTRY}", WorkspaceError):
        return registry.client.components.get(name=PIPELINE, label="latest")


def _model_problems(plan: RemotePlan, given: AzureML, purpose: Purpose) -> list[PenalaError]:
    entry = plan.model.entry
    if plan.model.archived and purpose == "finetune":
        plan.notes.append(f"warning: {entry.reference} is archived: its publisher has given it up")
    retired = plan.model.retired(purpose)
    if retired is None:
        return []
    doing = {"finetune": "fine-tuning", "inference": "deployment"}[purpose]
    what = f"{entry.reference} was retired for {doing} on {retired}"
    if given.allow_retired:
        plan.notes.append(f"warning: {what}")
        return []
    fix = "name a living model, such as Phi-4; azureml.allow_retired: true tries it all the same"
    return [RecipeError(what, where="base_model", fix=fix)]


def _fill_literals(plan: RemotePlan, recipe: Recipe) -> list[PenalaError]:
    plan.literals |= dict.fromkeys(CLUSTER_INPUTS, plan.compute.name)
    if plan.components == "penala":
        settings, notes = resolve_finetuning(recipe.finetuning, plan.model.entry.model_defaults)
        plan.notes += notes
        chosen = {one.name: one.value for one in settings if one.value is not None and one.source != "component"}
        plan.literals |= chosen | _our_inputs(recipe)
        return []
    declared = plan.component.inputs
    defaults = plan.model.entry.model_defaults
    ours = {one.name: one.value for one in resolve_finetuning(recipe.finetuning, defaults)[0] if one.source == "penala"}
    layers: dict[str, Mapping[str, Any]] = {"you": recipe.finetuning, "model": defaults, "penala": ours}
    problems: list[PenalaError] = []
    for source, values in layers.items():
        for name, value in values.items():
            if name in declared:
                plan.literals.setdefault(name, component_inputs(PIPELINE)[name].text(value, where=f"finetuning.{name}"))
            elif source == "you":
                fix = f"{near(name, declared)} leave it out, or `--components penala`".strip()
                problems.append(RecipeError("is no input of Azure's component", where=f"finetuning.{name}", fix=fix))
            elif source == "model":
                plan.notes.append(f"the model's default {name} = {value} is no input of the component: skipped")
    plan.notes += _out_of_bounds(plan)
    return problems


def _out_of_bounds(plan: RemotePlan) -> Iterable[str]:
    for name, (low, high) in plan.model.entry.bounds.items():
        value = float(plan.literals[name])
        if not (low or 0) <= value <= (high or float("inf")):
            yield f"warning: {name} {value:g} is outside the model publisher's {low} to {high}; yours runs"


def _our_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return what only our own pipeline is told."""
    said = recipe.conversations
    inputs: dict[str, Any] = {
        "conversation_schema": said.schema_,
        "on_bad_row": said.on_bad_row,
        "on_too_long": said.on_too_long,
        "train_on": said.train_on,
        "train_tool_calls": str(said.train_tool_calls).lower(),
    }
    shares = {f"{split}_split": value for split in ("validation", "test") if is_cut(value := getattr(said, split))}
    if said.columns:
        inputs["column_mapping"] = json.dumps(said.columns, sort_keys=True)
    evaluation = {key: value for key, value in recipe.evaluation.items() if key != "forgetting"}
    if evaluation:
        inputs["evaluation_config_params"] = json.dumps(evaluation, sort_keys=True)
    return inputs | shares


def _note_endpoint(plan: RemotePlan, recipe: Recipe) -> None:
    assert recipe.endpoint is not None
    name, deployment = recipe.endpoint.name, recipe.endpoint.deployment
    with during(f"looking up the endpoint {name}", WorkspaceError):
        try:
            traffic = dict(plan.connection.ml.online_endpoints.get(name).traffic or {})
        except ResourceNotFoundError:
            return
    others = ", ".join(one for one, share in traffic.items() if share and one != deployment)
    plan.notes.append(f"the endpoint {name} is there; all of its traffic moves to {deployment}")
    if others:
        plan.notes.append(f"{others} of {name} stays, without traffic, and goes on costing until it is deleted")


def _version_problems(plan: RemotePlan, recipe: Recipe) -> list[PenalaError]:
    if recipe.model is None or recipe.model.version is None:
        return []
    name, version = recipe.model.name, recipe.model.version
    with during(f"looking up the model {name}", WorkspaceError):
        try:
            plan.connection.ml.models.get(name, version=version)
        except ResourceNotFoundError:
            return []
    fix = "choose another, or leave it out for the next number"
    return [RecipeError(f"{name}:{version} is there already", where="model.version", fix=fix)]
