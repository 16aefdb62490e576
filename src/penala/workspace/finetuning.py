"""Azure ML's `type: finetuning` documents: our recipe in another dress, so it is read as one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penala.assets import require_name
from penala.errors import NotFound, RecipeError, UsageError, near
from penala.workspace.addresses import Addresses

if TYPE_CHECKING:
    from penala.workspace.client import Workspace
    from penala.workspace.documents import Report
    from penala.workspace.places import Place, Problems
    from penala.workspace.plan import Plan
    from penala.workspace.tail import Tail

TASK = "chat_completion"
PROVIDER = "custom"
_OTHER_TASKS = (
    *("text_completion", "text_classification", "question_answering", "text_summarization", "token_classification"),
    *("text_translation", "image_classification", "image_instance_segmentation", "image_object_detection"),
    *("video_multi_object_tracking",),
)
MODEL_OUTPUT = "registered_model"


def plan_finetuning(
    workspace: Workspace, document: Mapping[str, Any], place: Place, problems: Problems, report: Report
) -> tuple[Plan, Tail]:
    """Return the plan of a finetuning document and the registration that follows it.

    Raises UsageError with everything that is wrong, DataError for conversations that cannot be trained on.
    """
    from penala.recipe import Recipe
    from penala.workspace.run import plan_recipe, preflight

    _check_choice(document, "task", TASK, _OTHER_TASKS, place, problems)
    _check_choice(document, "model_provider", PROVIDER, ("azure_openai",), place, problems)
    data = {
        "train": _data(workspace, document, "training_data", place, problems),
        "validation": _data(workspace, document, "validation_data", place, problems),
    }
    if _path_in(document.get("training_data")) is None:
        problems.add("is missing", place.at("training_data"), "give the path of the conversations")
    model = _path_in(document.get("model"))
    if model is None:
        problems.add("is missing", place.at("model"), "write {path: azureml://registries/..., type: mlflow_model}")
    finetuning = _hyperparameters(document, place, problems)
    registered = _registered(document, place, problems)
    problems.raise_all()
    recipe = Recipe.model_validate(
        {
            "base_model": _base_model(str(model), place),
            "conversations": {split: path for split, path in data.items() if path is not None},
            "finetuning": finetuning,
            "model": registered,
        }
    )
    try:
        checked = preflight(recipe, workspace)
    except (NotFound, RecipeError) as error:  # the document names what cannot be had or run
        where = place.at("model") if isinstance(error, NotFound) else place
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise UsageError(what, where=str(where), fix=error.fix) from None
    for note in checked.notes:
        problems.note(note)
    plan, tail = plan_recipe(workspace, recipe, checked, report=report)
    assert tail.register is not None
    outputs = {**plan.outputs, MODEL_OUTPUT: plan.outputs[tail.register.output]}  # as the document calls it
    return replace(plan, outputs=outputs), tail


def _check_choice(
    document: Mapping[str, Any], key: str, ours: str, others: tuple[str, ...], place: Place, problems: Problems
) -> None:
    """Refuse another choice than ours by its name; Azure writes it in camel case, too."""
    value = document.get(key)
    plain = re.sub(r"[^a-z]", "", str(value).lower())
    names = {name.replace("_", ""): name for name in (ours, *others)}
    if names.get(plain) == ours:
        return
    if value is None:
        problems.add("is missing", place.at(key), f"write {key}: {ours}")
    elif plain in names:
        problems.add(f"{names[plain]} does not run in this workspace", place.at(key), f"only {ours} does")
    else:
        problems.add(f"is {value!r}", place.at(key), near(str(value), [ours, *others]) or f"use {ours}")


def _data(workspace: Workspace, document: Mapping[str, Any], key: str, place: Place, problems: Problems) -> str | None:
    """Return where conversations lie, None when they are not given or a problem."""
    path = _path_in(document.get(key))
    if path is None:
        return None
    with problems.collected(place.at(key)):
        return Addresses(workspace)(path, "uri_file", place).path
    return None


def _path_in(value: Any) -> str | None:
    """Return the path that a document writes alone, or as {path, type}."""
    if isinstance(value, Mapping):
        value = value.get("path")
    return None if value in (None, "") else str(value)


def _base_model(model: str, place: Place) -> str:
    """Return the base model as a recipe names it."""
    bare = model.removeprefix("azureml:")
    local = (place.folder / bare).absolute()
    return str(local) if local.is_dir() else model if model.startswith("azureml://") else bare


def _hyperparameters(document: Mapping[str, Any], place: Place, problems: Problems) -> dict[str, Any]:
    """Return the hyperparameters, which are checked against the inputs of the component."""
    from penala.recipe import finetuning_problems

    at = place.at("hyperparameters")
    given = problems.mapping(document.get("hyperparameters"), at)
    found = {name: value for name, value in given.items() if value is not None}
    for error in finetuning_problems(found):
        name = (error.where or "").removeprefix("finetuning.")
        problems.add(error.what, at.at(name), error.fix)
    return found


def _registered(document: Mapping[str, Any], place: Place, problems: Problems) -> dict[str, Any]:
    """Return what the tuned model is registered as."""
    outputs = problems.mapping(document.get("outputs"), place.at("outputs"))
    for name in outputs:
        if name != MODEL_OUTPUT:
            problems.add(f"a finetuning job has no output '{name}'", place.at("outputs", name), f"use {MODEL_OUTPUT}")
    at = place.at("outputs", MODEL_OUTPUT)
    said = problems.mapping(outputs.get(MODEL_OUTPUT), at)
    if said.get("name") is None:
        problems.add("is missing", at.at("name"), "write the name that the tuned model gets")
        return {}
    if said.get("type") not in (None, "mlflow_model"):
        problems.add(f"is {said['type']}", at.at("type"), "use mlflow_model")
    version = None if said.get("version") is None else str(said["version"])
    with problems.collected(at):
        require_name(str(said["name"]), version)
    tags = {str(key): str(value) for key, value in problems.mapping(document.get("tags"), place.at("tags")).items()}
    return {"name": str(said["name"]), "version": version, "tags": tags}
