"""All that can be known before anything is billed: what runs, on what, what it costs, and what speaks against it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from azure.ai.ml.entities import VmSize
from azure.core.exceptions import ResourceNotFoundError

from penala.assets import is_asset
from penala.azure.remote import base_model, conversations
from penala.azure.remote.base_model import SYSTEM_REGISTRY, BaseModel, Components, Purpose
from penala.azure.remote.connection import Connection
from penala.azure.remote.conversations import Cache, Checked, Report
from penala.azure.remote.reasons import during, state_text
from penala.errors import NotFound, PenalaError, RecipeError, UsageError, WorkspaceError, near
from penala.inputs import PIPELINE, component_inputs
from penala.recipe import AzureCompute, AzureML, Recipe, resolve_finetuning, share_of

if TYPE_CHECKING:
    from penala.workspace.sizes import Size

LONGEST_REQUEST_MS = 180_000  # of a managed endpoint (contract §4.3)
CLUSTER_INPUTS = ("compute_model_import", "compute_preprocess", "compute_finetune", "compute_model_evaluation")
# 16-bit tensor throughput in TFLOP/s by the beginning of a GPU's name, from NVIDIA's data sheets
TFLOPS = {"V100": 125, "T4": 65, "A100": 312, "H100": 835, "A10": 125}
USED_SHARE = (0.1, 0.5)  # of that throughput: the span that the estimate of hours covers
FLOPS_A_TOKEN = 4  # a parameter, with frozen weights: forward, and backward through them


@dataclass(frozen=True, slots=True)
class Here:
    """What passed the checks that need no network."""

    checked: Checked
    sample: Any
    notes: list[str]


@dataclass(slots=True)
class RemotePlan:
    """What will run: `literals` are the pipeline's inputs but for data and model, `component` what takes them."""

    connection: Connection
    components: Components
    component: Any  # of the SDK; None: penala's own, which are made when they are sent
    model: BaseModel
    literals: dict[str, Any]
    here: Here
    compute: AzureCompute
    new_compute: bool
    notes: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)


# --- without a network


def check_here(
    recipe: Recipe, components: Components, *, deploy: bool, cache: Cache | None, report: Report = lambda event: None
) -> Here:
    """Check the recipe and its conversations. Raises RecipeError with every reason against it, or DataError."""
    from penala.evaluation.settings import parse

    parse(recipe.evaluation)
    given = recipe.azureml or AzureML()
    problems: list[PenalaError] = []
    if given.compute is None:
        fix = "for example azureml: {compute: {name: gpu-cluster, size: Standard_NC24ads_A100_v4}}"
        problems.append(RecipeError("is missing", where="azureml.compute", fix=fix))
    else:
        problems += _size_problems(given.compute.size, "azureml.compute.size", components, given)
    notes = []
    if deploy and recipe.endpoint is not None:
        problems += _deployment_problems(recipe, given)
        if recipe.endpoint.port is not None:
            notes.append("endpoint.port has no effect on Azure")
    if components == "azureml":
        problems += _beyond_azures_components(recipe)
        notes.append(
            "Azure's component cuts rows above max_seq_length without a word; `penala data report` counts them"
        )
    else:
        forgetting = recipe.evaluation.get("forgetting")
        if forgetting and not recipe.path(forgetting).is_file():
            problems.append(RecipeError(f"there is no file {forgetting}", where="evaluation.forgetting"))
        notes.append("penala's own trainer works on the processor so far: a size with GPUs is no faster")
    _refuse(recipe, problems)
    return Here(conversations.check_all(recipe, cache=cache, report=report), _sample(recipe), notes)


def _refuse(recipe: Recipe, problems: list[PenalaError]) -> None:
    """Raise all problems as one, if there are any."""
    if len(problems) == 1:
        where = f"{recipe.file}: {problems[0].where}" if problems[0].where else str(recipe.file)
        raise RecipeError(problems[0].what, where=where, fix=problems[0].fix)
    if problems:
        lines = [f"{len(problems)} problems", *(f"  {problem}" for problem in problems)]
        raise RecipeError("\n".join(lines), where=str(recipe.file))


def _known_size(name: str) -> "Size | None":
    """Return what is known here of a size; Azure has others, which it alone can judge."""
    from penala.workspace.sizes import find_size

    try:
        return find_size(name)
    except UsageError:
        return None


def _size_problems(name: str, key: str, components: Components | None, given: AzureML) -> list[PenalaError]:
    size = _known_size(name)
    if size is None:
        return []
    problems: list[PenalaError] = []
    if size.gone and not given.allow_retired:
        fix = "`penala compute sizes` shows what lives; azureml.allow_retired: true tries it all the same"
        problems.append(RecipeError(f"{size.name} was retired on {size.retired}", where=key, fix=fix))
    if components == "azureml" and not size.gpus:
        fix = "choose a size with GPUs, or `--components penala`"
        problems.append(RecipeError(f"{size.name} has no GPU, and Azure's component needs one", where=key, fix=fix))
    return problems


def _deployment_problems(recipe: Recipe, given: AzureML) -> list[PenalaError]:
    assert recipe.endpoint is not None
    problems: list[PenalaError] = []
    if given.instance_type is None:
        fix = "for example Standard_NC24ads_A100_v4, or `--no-deploy`"
        problems.append(RecipeError("is missing", where="azureml.instance_type", fix=fix))
    else:
        problems += _size_problems(given.instance_type, "azureml.instance_type", None, given)
    if recipe.endpoint.request_settings.request_timeout_ms > LONGEST_REQUEST_MS:
        key = "endpoint.request_settings.request_timeout_ms"
        fix = f"Azure allows {LONGEST_REQUEST_MS} at most"
        problems.append(RecipeError("is longer than a managed endpoint waits", where=key, fix=fix))
    return problems


def _beyond_azures_components(recipe: Recipe) -> list[PenalaError]:
    """Return one problem for each wish that only our own components can fulfil."""
    said = recipe.conversations
    wishes = {
        "conversations.train_on": said.train_on != "all_turns",
        "conversations.train_tool_calls": not said.train_tool_calls,
        "conversations.on_too_long": said.on_too_long != "error",
        "conversations.validation": said.validation == "none",
        "conversations.test": said.test == "none",
        "evaluation": bool(recipe.evaluation),
    }
    if is_asset(said.train):
        wishes |= {f"conversations.{split}": _is_cut(getattr(said, split)) for split in ("validation", "test")}
    fix = "leave it out, or `--components penala`"
    return [
        RecipeError("is more than Azure's components can do", where=key, fix=fix)
        for key, wished in wishes.items()
        if wished
    ]


def _sample(recipe: Recipe) -> Any:
    from penala.endpoint.scoring import as_score_body

    if recipe.sample is None:
        return None
    if recipe.sample.messages is not None:
        return as_score_body(recipe.sample.messages)
    assert recipe.sample.file is not None
    path = recipe.path(recipe.sample.file)
    try:
        return as_score_body(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RecipeError(f"is no conversation: {error}", where=str(path), fix="write a list of messages") from None


# --- with Azure's answers


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
        problems += _compute_problems(plan)
        problems += _version_problems(plan, recipe)
    if deploy and recipe.endpoint is not None and given.instance_type is not None:
        problems += _model_problems(plan, given, "inference")
        problems += _allowed(plan, given.instance_type, "azureml.instance_type", "inference")
        _note_endpoint(plan, recipe)
    _refuse(recipe, problems)
    plan.costs = _costs(plan, recipe, given, deploy=deploy)
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
    if plan.components == "penala":
        settings, notes = resolve_finetuning(recipe.finetuning, plan.model.entry.model_defaults)
        plan.notes += notes
        chosen = {one.name: one.value for one in settings if one.value is not None and one.source != "component"}
        plan.literals = chosen | _our_inputs(recipe)
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
    shares = {f"{split}_split": value for split in ("validation", "test") if _is_cut(value := getattr(said, split))}
    if said.columns:
        inputs["column_mapping"] = json.dumps(said.columns, sort_keys=True)
    evaluation = {key: value for key, value in recipe.evaluation.items() if key != "forgetting"}
    if evaluation:
        inputs["evaluation_config_params"] = json.dumps(evaluation, sort_keys=True)
    return inputs | shares


def _is_cut(split: str | None) -> bool:
    return split == "none" or share_of(split) is not None


# --- computes


def _compute_problems(plan: RemotePlan) -> list[PenalaError]:
    ml, wanted = plan.connection.ml, plan.compute
    problems: list[PenalaError] = []
    with during(f"looking up the compute {wanted.name}", WorkspaceError):
        try:
            found = ml.compute.get(wanted.name)
        except ResourceNotFoundError:
            found = None
        sizes = {str(size.name).lower(): size for size in ml.compute.list_sizes()}
    plan.new_compute = found is None
    if found is not None and str(found.size).lower() != wanted.size.lower():
        what = f"{wanted.name} is there, with the size {found.size}"
        fix = f"write that size, or another name for a cluster of {wanted.size}"
        problems.append(RecipeError(what, where="azureml.compute", fix=fix))
    if found is not None and state_text(found.provisioning_state).lower() == "failed":
        what = f"{wanted.name} is there, and Azure failed to make it"
        problems.append(RecipeError(what, where="azureml.compute.name", fix="delete it, or choose another name"))
    offered = sizes.get(wanted.size.lower())
    if offered is None:
        hint = near(wanted.size, {str(size.name) for size in sizes.values()}) or "the portal lists its sizes"
        what = f"{wanted.size} is not offered in the workspace's region"
        return [*problems, RecipeError(what, where="azureml.compute.size", fix=hint)]
    problems += _allowed(plan, wanted.size, "azureml.compute.size", "finetune")
    gpus = int(offered.gpus or 0)
    plan.literals |= dict.fromkeys(CLUSTER_INPUTS, wanted.name) | {"number_of_gpu_to_use_finetuning": max(gpus, 1)}
    if plan.components == "azureml" and not gpus:
        what = f"{wanted.size} has no GPU, and Azure's component needs one"
        problems.append(RecipeError(what, where="azureml.compute.size", fix="choose a size with GPUs"))
    plan.notes += _quota_hints(plan, offered)
    return problems


def _allowed(plan: RemotePlan, name: str, key: str, purpose: Purpose) -> list[PenalaError]:
    """Return what the model's publisher has against a size: it is not allowed, or smaller than the smallest one.

    Our own components need less than the publisher's: for them, a size that is not allowed is only told.
    """
    from penala.workspace.sizes import allow_list

    entry = plan.model.entry
    problems: list[str] = []
    allowed, minimum, size = allow_list(entry, purpose), plan.model.minimum(purpose), _known_size(name)
    doing = {"finetune": "fine-tuning", "inference": "deployment"}[purpose]
    if allowed is not None and name.lower() not in {one.lower() for one in allowed}:
        shown = ", ".join(allowed) or "none"
        problems.append(f"{name} is not among the sizes for {doing} of {entry.reference}: {shown}")
    elif allowed is None and entry.tags:
        plan.notes.append(f"the publisher of {entry.reference} names no sizes for {doing}")
    if minimum is not None and size is not None:
        has = (size.vcpus, size.gpus, size.memory_gb)
        if any(one < least for one, least in zip(has, minimum, strict=True)):
            least = "{} vCPUs, {} GPUs, {} GiB".format(*minimum)
            problems.append(f"{name} is smaller than {entry.reference} needs for {doing}: {least}")
    if plan.components == "penala":
        plan.notes += [f"warning: {what}" for what in problems]
        return []
    return [RecipeError(what, where=key, fix="choose another size") for what in problems]


def _quota_hints(plan: RemotePlan, size: VmSize) -> Iterable[str]:
    """Say when the quota of the size's family looks too small. Only Azure knows; a list that fails is no obstacle."""
    known, wanted = _known_size(str(size.name)), plan.compute
    if known is None or not plan.new_compute:
        return
    needed = known.vcpus * wanted.max_instances
    try:
        with during("reading the quota", WorkspaceError):
            usages = {_usage_name(usage): usage for usage in plan.connection.ml.compute.list_usage()}
    except (WorkspaceError, NotFound) as error:
        yield f"the quota could not be read: {error.what}"
        return
    usage = usages.get(str(size.family).lower())
    if usage is None:
        yield f"the quota of {size.family} is not listed; {needed} vCPUs are needed"
        return
    # azure-ai-ml 1.35 keeps the number under the wire's name
    used = next((count for name in ("current_value", "currentValue") if (count := getattr(usage, name, None))), 0)
    if needed > int(usage.limit or 0) - int(used):
        left = f"{used} of {usage.limit} vCPUs of {size.family} are in use"
        yield f"warning: {needed} vCPUs are needed, and {left}; ask for quota in Azure's portal"


def _usage_name(usage: Any) -> str:
    name = usage.name.get("value") if isinstance(usage.name, Mapping) else getattr(usage.name, "value", usage.name)
    return str(name).lower()


# --- what is there already, and what it costs


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


def _costs(plan: RemotePlan, recipe: Recipe, given: AzureML, *, deploy: bool) -> list[str]:
    """Return what will be billed, and for how long. Prices differ by region and contract: Azure's pages tell them."""
    wanted = plan.compute
    nodes = f"up to {wanted.max_instances} x {wanted.size}"
    made = "made now" if plan.new_compute else "there already"
    lines = [f"cluster {wanted.name} ({made}): {nodes}, {wanted.tier.replace('_', ' ')}, {_hours(plan)}"]
    if wanted.min_instances:
        lines.append(f"cluster {wanted.name}: {wanted.min_instances} nodes are billed all the time, at work or not")
    else:
        lines.append(f"cluster {wanted.name}: nothing while no job runs, {wanted.idle_seconds} s after the last one")
    if deploy and recipe.endpoint is not None:
        machines = f"{given.instance_count} x {given.instance_type}"
        lines.append(f"endpoint {recipe.endpoint.name}: {machines}, every hour until it is deleted")
    return lines


def _hours(plan: RemotePlan) -> str:
    """Return the estimated hours of training as a span; what is not known is not guessed."""
    size, data, entry = _known_size(plan.compute.size), plan.here.checked.train_bytes, plan.model.entry
    parameters = entry.parameters or _parameters_in_name(entry.name)
    speed = next((TFLOPS[gpu] for gpu in TFLOPS if size is not None and (size.gpu or "").startswith(gpu)), None)
    if plan.components == "penala" or size is None or speed is None or parameters is None or data is None:
        return "hours not estimated"
    epochs = int(plan.literals.get("num_train_epochs", 1))
    flops = FLOPS_A_TOKEN * parameters * epochs * data / conversations.BYTES_A_TOKEN
    low, high = sorted(flops / (size.gpus * speed * 1e12 * share) / 3600 for share in USED_SHARE)
    return f"training {low:.1f} to {high:.1f} hours, besides starting nodes and moving the model"


def _parameters_in_name(name: str) -> float | None:
    """Return the number of parameters that a name such as Llama-2-7b tells."""
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", name, re.IGNORECASE)
    return float(found[1]) * 1e9 if found else None
