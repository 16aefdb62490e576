"""The cluster of a run: whether it fits the model and the region, whether the quota will do, and what it costs."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from azure.ai.ml.entities import VmSize
from azure.core.exceptions import ResourceNotFoundError

from penala.azure.remote.base_model import Purpose
from penala.azure.remote.conversations import BYTES_A_TOKEN
from penala.azure.remote.offline import known_size
from penala.azure.remote.plan import RemotePlan
from penala.azure.remote.reasons import during, state_text
from penala.errors import NotFound, PenalaError, RecipeError, WorkspaceError, near
from penala.recipe import AzureML, Recipe

# 16-bit tensor throughput in TFLOP/s by the beginning of a GPU's name, from NVIDIA's data sheets
TFLOPS = {"V100": 125, "T4": 65, "A100": 312, "H100": 835, "A10": 125}
USED_SHARE = (0.1, 0.5)  # of that throughput: the span that the estimate of hours covers
FLOPS_A_TOKEN = 4  # a parameter, with frozen weights: forward, and backward through them


def compute_problems(plan: RemotePlan) -> list[PenalaError]:
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
    problems += allowed(plan, wanted.size, "azureml.compute.size", "finetune")
    gpus = int(offered.gpus or 0)
    plan.literals["number_of_gpu_to_use_finetuning"] = max(gpus, 1)
    if plan.components == "azureml" and not gpus:
        what = f"{wanted.size} has no GPU, and Azure's component needs one"
        problems.append(RecipeError(what, where="azureml.compute.size", fix="choose a size with GPUs"))
    plan.notes += _quota_hints(plan, offered)
    return problems


def allowed(plan: RemotePlan, name: str, key: str, purpose: Purpose) -> list[PenalaError]:
    """Return what the model's publisher has against a size: it is not allowed, or smaller than the smallest one.

    Our own components need less than the publisher's: for them, a size that is not allowed is only told.
    """
    from penala.workspace.sizes import allow_list

    entry = plan.model.entry
    problems: list[str] = []
    allowed, minimum, size = allow_list(entry, purpose), plan.model.minimum(purpose), known_size(name)
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
    known, wanted = known_size(str(size.name)), plan.compute
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


def costs(plan: RemotePlan, recipe: Recipe, given: AzureML, *, deploy: bool) -> list[str]:
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
    size, data, entry = known_size(plan.compute.size), plan.here.checked.train_bytes, plan.model.entry
    parameters = entry.parameters or _parameters_in_name(entry.name)
    speed = next((TFLOPS[gpu] for gpu in TFLOPS if size is not None and (size.gpu or "").startswith(gpu)), None)
    if plan.components == "penala" or size is None or speed is None or parameters is None or data is None:
        return "hours not estimated"
    epochs = int(plan.literals.get("num_train_epochs", 1))
    flops = FLOPS_A_TOKEN * parameters * epochs * data / BYTES_A_TOKEN
    low, high = sorted(flops / (size.gpus * speed * 1e12 * share) / 3600 for share in USED_SHARE)
    return f"training {low:.1f} to {high:.1f} hours, besides starting nodes and moving the model"


def _parameters_in_name(name: str) -> float | None:
    """Return the number of parameters that a name such as Llama-2-7b tells."""
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", name, re.IGNORECASE)
    return float(found[1]) * 1e9 if found else None
