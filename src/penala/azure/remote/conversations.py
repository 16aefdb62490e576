"""A recipe's conversations on their way to Azure: checked here, sent as they are where the components there read them.

What Azure's components cannot read or do (other schemas, several files, shares of train, dropped rows) is done here
first, by the rules of a local run, and sent as JSON lines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from azure.ai.ml import Input

from penala.assets import is_asset
from penala.azure.remote.base_model import Components
from penala.recipe import Recipe, hub_address, share_of

if TYPE_CHECKING:
    from penala.conversations.check import Check

Report = Callable[[dict[str, Any]], None]
Cache = Callable[[], Path]  # makes the folder that hub sets are fetched into
SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
_AS_THEY_ARE = {".jsonl", ".json", ".csv", ".tsv", ".parquet"}
BYTES_A_TOKEN = 4  # of JSON lines, roughly; only for the estimate of hours


@dataclass(slots=True)
class Checked:
    """Splits by name: files that passed the check, assets that only Azure can read, and what is to be told."""

    files: dict[str, "Check"] = field(default_factory=dict)
    assets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    train_bytes: int | None = None  # None: nobody here knows


def check_all(recipe: Recipe, *, cache: Cache | None, report: Report = lambda event: None) -> Checked:
    """Check every row of every file. A hub set is fetched into `cache` first; without one, it is left for later.

    Raises DataError for conversations that cannot be used, UsageError for a path that leads nowhere.
    """
    from penala.conversations.check import check, require
    from penala.conversations.files import find_files
    from penala.conversations.hub_cache import fetch

    said, done = recipe.conversations, Checked()
    for split in SPLITS:
        path = getattr(said, split)
        if not path or path == "none" or share_of(path) is not None:
            continue
        if is_asset(path):
            done.assets[split] = path
            done.notes.append(f"{split}: {path} lies in Azure; its rows are not checked here")
            continue
        place = recipe.path(path)
        if (address := hub_address(path)) is not None:
            if cache is None:
                done.notes.append(f"{split}: {address} is fetched and checked when the recipe runs")
                continue
            place = Path(fetch(address, cache(), report))
        done.files[split] = check([place], schema=said.schema_, columns=said.columns)
        require(done.files[split], split=split, on_bad_row=said.on_bad_row)
        if split == "train":
            done.train_bytes = sum(file.stat().st_size for file in find_files(place).files)
    return done


def inputs(recipe: Recipe, checked: Checked, components: Components, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the data inputs of the pipeline and what to tell; what has to be written anew goes into `folder`.

    Raises DataError for splits that are too small.
    """
    notes: list[str] = []
    files = _as_they_are(recipe, checked.files, components)
    read: dict[str, Any] = {}  # how our own components read what is written; Azure's read messages only
    if not files and checked.files:
        files, notes = _written(recipe, checked, components, folder)
        read = {"conversation_schema": "messages", "column_mapping": None} if components == "penala" else {}
    named = {f"{split}_file_path": str(path) for split, path in files.items()}
    named |= {f"{split}_file_path": asset for split, asset in checked.assets.items()}
    if forgetting := recipe.evaluation.get("forgetting"):
        named["forgetting_file_path"] = str(recipe.path(forgetting))
    return read | {name: Input(type="uri_file", path=path) for name, path in named.items()}, notes


def _as_they_are(recipe: Recipe, files: Mapping[str, "Check"], components: Components) -> dict[str, Path]:
    """Return the splits' own files where the components can take every one of them, else nothing."""
    found = {split: list(map(Path, checked.schemas)) for split, checked in files.items()}
    if any(len(paths) != 1 for paths in found.values()):
        return {}
    if components == "azureml":
        cut = [getattr(recipe.conversations, split) for split in SPLITS[1:] if split not in files]
        changed = any(checked.bad or set(checked.schemas.values()) != {"messages"} for checked in files.values())
        unread = any(paths[0].suffix.lower() not in _AS_THEY_ARE for paths in found.values())
        if changed or unread or recipe.conversations.columns or any(share_of(value) is not None for value in cut):
            return {}
    return {split: paths[0] for split, paths in found.items()}


def _written(
    recipe: Recipe, checked: Checked, components: Components, folder: Path
) -> tuple[dict[str, Path], list[str]]:
    from penala.conversations.conversation import write_jsonl
    from penala.conversations.split import split as cut

    rows: dict[str, Any] = {name: one.conversations for name, one in checked.files.items()}
    notes = ["written as JSON lines before they are sent"]
    if components == "azureml" and "train" in rows:
        specs: dict[str, Any] = {name: getattr(recipe.conversations, name) for name in SPLITS[1:]}
        specs |= dict.fromkeys(checked.assets, "none")
        specs |= {name: one for name, one in checked.files.items() if name in specs}
        splits = cut(checked.files["train"], **specs)
        rows = {name: part for name in SPLITS if (part := getattr(splits, name))}
        notes = [f"{notes[0]}: {splits.note}"]
    for name, part in rows.items():
        with (folder / f"{name}.jsonl").open("wb") as file:
            write_jsonl(file, part)
    return {name: folder / f"{name}.jsonl" for name in rows}, notes
