"""What can be said against a recipe on Azure without a network, its conversations included."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penala.assets import is_asset
from penala.azure.remote import conversations
from penala.azure.remote.base_model import Components
from penala.azure.remote.conversations import Cache, Checked, Report
from penala.errors import PenalaError, RecipeError, UsageError
from penala.recipe import AzureML, Recipe, share_of

if TYPE_CHECKING:
    from penala.workspace.sizes import Size

LONGEST_REQUEST_MS = 180_000  # of a managed endpoint (contract §4.3)


@dataclass(frozen=True, slots=True)
class Here:
    """What passed the checks that need no network."""

    checked: Checked
    sample: Any
    notes: list[str]


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
        problems += size_problems(given.compute.size, "azureml.compute.size", components, given)
    notes = []
    if deploy and recipe.endpoint is not None:
        problems += deployment_problems(recipe, given)
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
    refuse(recipe, problems)
    return Here(conversations.check_all(recipe, cache=cache, report=report), _sample(recipe), notes)


def refuse(recipe: Recipe, problems: list[PenalaError]) -> None:
    """Raise all problems as one, if there are any."""
    if len(problems) == 1:
        where = f"{recipe.file}: {problems[0].where}" if problems[0].where else str(recipe.file)
        raise RecipeError(problems[0].what, where=where, fix=problems[0].fix)
    if problems:
        lines = [f"{len(problems)} problems", *(f"  {problem}" for problem in problems)]
        raise RecipeError("\n".join(lines), where=str(recipe.file))


def known_size(name: str) -> "Size | None":
    """Return what is known here of a size; Azure has others, which it alone can judge."""
    from penala.workspace.sizes import find_size

    try:
        return find_size(name)
    except UsageError:
        return None


def size_problems(name: str, key: str, components: Components | None, given: AzureML) -> list[PenalaError]:
    size = known_size(name)
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


def deployment_problems(recipe: Recipe, given: AzureML) -> list[PenalaError]:
    assert recipe.endpoint is not None
    problems: list[PenalaError] = []
    if given.instance_type is None:
        fix = "for example Standard_NC24ads_A100_v4, or `--no-deploy`"
        problems.append(RecipeError("is missing", where="azureml.instance_type", fix=fix))
    else:
        problems += size_problems(given.instance_type, "azureml.instance_type", None, given)
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
        wishes |= {f"conversations.{split}": is_cut(getattr(said, split)) for split in ("validation", "test")}
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


def is_cut(split: str | None) -> bool:
    return split == "none" or share_of(split) is not None
