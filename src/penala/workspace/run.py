"""A recipe becomes a job: all that is cheap is checked first, then the pipeline with its tail is submitted."""

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penala.assets import is_asset, parse
from penala.errors import DataError, RecipeError, UsageError
from penala.inputs import PIPELINE
from penala.workspace import base_models
from penala.workspace.artifacts import digest, digest_file, move
from penala.workspace.data import reading_options
from penala.workspace.events import Event
from penala.workspace.tail import Deploy, Register, Score, Tail

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry
    from penala.conversations.check import Check
    from penala.recipe import HubAddress, Recipe, Setting
    from penala.workspace.client import Workspace
    from penala.workspace.plan import Plan

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Preflight:
    """A recipe that passed every cheap check: what it runs with, and what a person should be told."""

    base: "Entry"
    settings: list["Setting"]
    notes: list[str]
    data: dict[str, dict[str, Any]]  # split -> rows, good, bad, findings
    sample: Any


def preflight(recipe: "Recipe", workspace: "Workspace | None" = None) -> Preflight:
    """Check what can be checked without loading a model: names, values, files, every conversation.

    Assets that the recipe names are looked up in `workspace`. Raises RecipeError or UsageError for a recipe that is
    refused, DataError for conversations, ModelError or NotFound for the base model or an asset.
    """
    from penala.evaluation.settings import parse
    from penala.recipe import resolve_finetuning

    base = _base_model(recipe, workspace)
    settings, notes = resolve_finetuning(recipe.finetuning, base.model_defaults)
    parse(recipe.evaluation)
    for key, path in _files(recipe).items():
        if not path.is_file():
            raise RecipeError("no such file", where=f"{recipe.file}: {key}: {path}", fix="check the path")
    sample = _sample(recipe)
    data = _check_data(recipe, notes, workspace)
    _check_memory(base, settings)
    return Preflight(base, settings, notes, data, sample)


def explain(recipe: "Recipe", workspace: "Workspace | None" = None) -> tuple[list[tuple[str, Any, str]], list[str]]:
    """Return (key, value, who set it) of everything that `recipe` runs with, and what to tell beside it."""
    from penala.recipe import resolve_finetuning

    settings, notes = resolve_finetuning(recipe.finetuning, _base_model(recipe, workspace).model_defaults)
    rows: list[tuple[str, Any, str]] = []
    whole, given = recipe.model_dump(by_alias=True), recipe.model_dump(by_alias=True, exclude_unset=True)
    for part, value in whole.items():
        if part == "finetuning":
            rows += [(f"finetuning.{setting.name}", setting.value, setting.source) for setting in settings]
        else:
            rows += _leaves(part, value, given)
    return rows, notes


def _leaves(key: str, value: Any, given: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    if isinstance(value, dict) and value:
        return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner, given)]
    inner: Any = given
    for name in key.split("."):
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    return [(key, value, "penala" if inner is None else "you")]


def submit(
    workspace: "Workspace",
    recipe: "Recipe",
    checked: Preflight,
    *,
    force_rerun: bool = False,
    deploy: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> str:
    """Make the job of a checked recipe, or take the unfinished one of the same recipe; start it and return its name.

    Conversations that lie on the hub are fetched first; `report` is told how far they are.
    """
    plan, tail = plan_recipe(workspace, recipe, checked, deploy=deploy, report=report)
    forced = force_rerun or recipe.settings.force_rerun
    about = _about(workspace, recipe, deploy=deploy)
    name = workspace.jobs.submit(plan, tail, display_name=recipe.model_name, force_rerun=forced, about=about)
    workspace.jobs.start(name)
    return name


def _about(workspace: "Workspace", recipe: "Recipe", *, deploy: bool) -> dict[str, Any]:
    """Return what `penala models explain` tells of the recipe: its text as it is now, and the command that runs it."""
    from penala.recipe import set_flags

    flags = set_flags(recipe.overrides) + ([] if deploy else ["--no-deploy"])
    command = ["penala", "--workspace", str(workspace.folder), "run", str(recipe.file), *flags]
    text = recipe.file.read_text(encoding="utf-8") if recipe.file.is_file() else None
    return {"recipe": {"file": str(recipe.file), "text": text}, "command": shlex.join(command)}


def plan_recipe(
    workspace: "Workspace",
    recipe: "Recipe",
    checked: Preflight,
    *,
    deploy: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> tuple["Plan", Tail]:
    """Return what a checked recipe runs: the steps, and what comes after them."""
    from penala.workspace.components import shipped_pipeline
    from penala.workspace.planner import make_plan

    plan = make_plan(
        shipped_pipeline(PIPELINE),
        pipeline_inputs(workspace, recipe, checked, report),
        folder=recipe.folder,
        digest_path=workspace.jobs.digests,
    )
    return plan, _tail(recipe, checked, deploy=deploy)


def run(
    workspace: "Workspace",
    recipe: "Recipe",
    *,
    force_rerun: bool = False,
    deploy: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> dict[str, Any]:
    """Run a recipe to its end and return its result; what happens on the way goes to `on_event`.

    A run that was cut goes on where it stopped. The result's status says how it ended; a failed job raises nothing.
    """
    name = submit(workspace, recipe, preflight(recipe, workspace), force_rerun=force_rerun, deploy=deploy)
    for event in workspace.jobs.follow(name, revive=True):
        if on_event is not None:
            on_event(event)
    return workspace.jobs.result(name)


def _check_memory(base: "Entry", settings: list["Setting"]) -> None:
    """Refuse a model that cannot be trained here; one whose size nothing tells is checked once it is imported."""
    from penala.training.estimate import memory_available, memory_needed

    if base.parameters is None:
        return
    values = {setting.name: str(setting.value) for setting in settings}
    trained = 0 if values["apply_lora"] == "true" else base.parameters
    needed, available = memory_needed(base.parameters, values["precision"], trained=trained), memory_available()
    if needed > available:
        what = f"training needs about {needed / 1e9:.0f} GB of memory, and {available / 1e9:.0f} GB are free"
        raise RecipeError(what, where="base_model", fix="choose a smaller model, or run on a larger machine")


def _base_model(recipe: "Recipe", workspace: "Workspace | None") -> "Entry":
    from penala.basemodel.catalogue import FolderSource
    from penala.basemodel.folder import check_folder

    entry = base_models.resolve(workspace, recipe.base_model, recipe.folder)
    if isinstance(source := entry.sources[0], FolderSource):
        check_folder(Path(source.path))
    return entry


def _files(recipe: "Recipe") -> dict[str, Path]:
    """Return the single files that a recipe names, by key."""
    sample = recipe.sample.file if recipe.sample else None
    named = {"evaluation.forgetting": recipe.evaluation.get("forgetting"), "sample.file": sample}
    return {key: recipe.path(value) for key, value in named.items() if value}


def _sample(recipe: "Recipe") -> Any:
    from penala.endpoint.scoring import as_score_body

    if recipe.sample is None:
        return None
    if recipe.sample.messages is not None:
        return as_score_body(recipe.sample.messages)
    path = _files(recipe)["sample.file"]
    try:
        return as_score_body(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RecipeError(f"is no conversation: {error}", where=str(path), fix="write a list of messages") from None


def _splits(recipe: "Recipe") -> dict[SplitName, str]:
    """Return the splits that are paths, each as it is written in the recipe."""
    from penala.recipe import share_of

    splits: tuple[SplitName, ...] = ("train", "validation", "test")
    given = {split: getattr(recipe.conversations, split) for split in splits}
    return {split: value for split, value in given.items() if value and value != "none" and share_of(value) is None}


def _place(recipe: "Recipe", workspace: "Workspace | None", path: str) -> Path:
    """Return where a split lies: the file, folder or glob that the recipe names, or the files of a data asset."""
    if not is_asset(path):
        return recipe.path(path)
    if workspace is None:
        fix = f"`penala data add {parse(path, 'data').name} --from PATH` adds it"
        raise RecipeError("there is no workspace that holds it", where=path, fix=fix)
    return workspace.data.path(workspace.data.get(path))


def _check_data(recipe: "Recipe", notes: list[str], workspace: "Workspace | None") -> dict[str, dict[str, Any]]:
    """Check the rows of each split that lies here, and whether train can be cut as the recipe says."""
    from penala.conversations.check import check, require
    from penala.conversations.split import split
    from penala.recipe import hub_address

    settings = recipe.conversations
    paths = _splits(recipe)
    checked: dict[SplitName, Check] = {}
    for name, path in paths.items():
        if (address := hub_address(path)) is not None:
            notes.append(f"{name}: {_look_up(address)}")
            continue
        place = _place(recipe, workspace, path)
        checked[name] = check([place], schema=settings.schema_, columns=settings.columns)
        require(checked[name], split=name, on_bad_row=settings.on_bad_row)
        if bad := checked[name].bad:
            options = reading_options(settings.schema_, settings.columns)
            again = f"`penala data check {shlex.quote(str(place))}{options}`"
            notes.append(f"{name}: {bad} of {checked[name].rows} rows are bad and left out; {again} lists them")
    if "train" in checked:

        def spec(name: Literal["validation", "test"]) -> "Check | str | None":
            """Rows on the hub count as rows of their own, which nobody looks at here."""
            written: str | None = getattr(settings, name)
            return checked.get(name, "none" if name in paths else written)

        try:
            note = split(checked["train"], spec("validation"), spec("test")).note
        except (DataError, UsageError) as error:
            raise type(error)(error.what, where=f"{recipe.file}: conversations", fix=error.fix) from None
        for name in paths.keys() - checked.keys():  # it is on the hub, of which a note stands above
            note = note.replace(f"; no {name}", "")
        notes.append(note)
    return {name: found.as_dict() for name, found in checked.items()}


def _look_up(address: "HubAddress") -> str:
    """Return what the hub says of a split; nothing of its rows is fetched."""
    from penala.conversations.hub import Unreachable
    from penala.conversations.hub_cache import look_up

    try:
        hub_set = look_up(address)
    except Unreachable as error:
        return f"{address} cannot be looked up now ({error.what}); a copy that was fetched before will be used"
    split = hub_set.splits[address.split]
    rows = f"{split.rows} rows, " if split.rows is not None else ""
    size = f"{rows}{split.size / 1e6:.1f} MB at {hub_set.revision[:12]}"
    return f"{address} has {size}; they are fetched once and checked when the recipe runs"


def pipeline_inputs(
    workspace: "Workspace", recipe: "Recipe", checked: Preflight, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Return the inputs of the pipeline."""
    conversations = recipe.conversations
    inputs: dict[str, Any] = dict(base_models.inputs(checked.base))
    inputs |= {setting.name: setting.value for setting in checked.settings if setting.value is not None}
    for split, path in _splits(recipe).items():
        inputs[f"{split}_file_path"] = _one_path(workspace, recipe, path, report)
    for split in ("validation", "test"):
        value = getattr(conversations, split)
        if value and f"{split}_file_path" not in inputs:
            inputs[f"{split}_split"] = value
    inputs |= {
        "conversation_schema": conversations.schema_,
        "on_bad_row": conversations.on_bad_row,
        "on_too_long": conversations.on_too_long,
        "train_on": conversations.train_on,
        "train_tool_calls": conversations.train_tool_calls,
    }
    if conversations.columns:
        inputs["column_mapping"] = json.dumps(conversations.columns, sort_keys=True)
    evaluation = dict(recipe.evaluation)
    if forgetting := evaluation.pop("forgetting", None):
        inputs["forgetting_file_path"] = str(recipe.path(forgetting))
    if evaluation:
        inputs["evaluation_config_params"] = json.dumps(evaluation, sort_keys=True)
    return inputs


def _one_path(workspace: "Workspace", recipe: "Recipe", path: str, report: Callable[[dict[str, Any]], None]) -> str:
    """Return a split as one file or folder; a hub set is fetched into the workspace, a glob's files copied there."""
    from penala.conversations.files import find_files
    from penala.conversations.hub_cache import fetch
    from penala.recipe import hub_address

    if (address := hub_address(path)) is not None:
        return str(fetch(address, workspace.cache, report))
    place = _place(recipe, workspace, path)
    if place.exists():
        return str(place)
    files = find_files(place).files
    if len(files) == 1:
        return str(files[0])
    folder = workspace.folder / "data" / digest(["glob/1", [[str(file), digest_file(file)] for file in files]])
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as work:
            copy = Path(work) / "copy"
            copy.mkdir()
            for number, file in enumerate(files):
                shutil.copyfile(file, copy / f"{number:05}-{file.name}")
            move(copy, folder)
    return str(folder)


def _tail(recipe: "Recipe", checked: Preflight, *, deploy: bool) -> Tail:
    model, endpoint = recipe.model, recipe.endpoint
    register = Register(
        name=recipe.model_name,
        output="mlflow_model_folder",
        version=model.version if model else None,
        tags=model.tags if model else {},
        properties={"base_model": checked.base.reference},
    )
    if endpoint is None or not deploy:
        return Tail(register=register)
    settings = {"request_settings": endpoint.request_settings.model_dump(), "port": endpoint.port}
    return Tail(
        register=register,
        deploy=Deploy(endpoint.name, endpoint.deployment, settings),
        score=None if checked.sample is None else Score(checked.sample),
    )


def evaluation_tables(workspace: "Workspace", job: str) -> list[tuple[str, list[list[str]]]]:
    """Return (title, table) of a job's evaluation, each table with its heading first; empty when there is none."""
    from penala.evaluation.table import forgetting_table, replies_table, summary_table

    folder = workspace.jobs.outputs(job).get("evaluation_result")
    if folder is None:
        return []
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    lines = (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    if evaluation["split"] is None:
        return []
    tables = [(f"{evaluation['rows']} rows of {evaluation['split']}", summary_table(evaluation))]
    if lines:
        tables.append(("Replies", replies_table([json.loads(line) for line in lines])))
    if evaluation["forgetting"]:
        tables.append(("Unrelated questions", forgetting_table(evaluation)))
    return tables
