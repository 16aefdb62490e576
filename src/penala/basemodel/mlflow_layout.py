"""The files of a model inside an MLflow model folder (contract 1.4): three flavours, each with its own layout."""

from pathlib import Path
from typing import Any

import yaml

from penala.basemodel.folder import model_files
from penala.errors import ModelError

# flavour -> folders, in the order in which a file is looked for
LAYOUTS = {
    "transformers": ("model", "components/tokenizer"),
    "hftransformersv2": ("data/model", "data/config", "data/tokenizer"),
    "hftransformers": ("data/model", "data/config", "data/tokenizer"),
}


def mlmodel(folder: Path) -> dict[str, Any]:
    """Read the MLmodel file of `folder`. Raises ModelError when it is missing or no YAML mapping."""
    path = folder / "MLmodel"
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fix = "give a folder without MLmodel as pytorch_model_path"
        raise ModelError("MLmodel file is not found", where=str(folder), fix=fix) from None
    except (yaml.YAMLError, ValueError):  # ValueError: no UTF-8, or what looks like a date and is none
        loaded = None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("flavors"), dict):
        raise ModelError("is no MLmodel file: it names no flavors", where=str(path))
    return loaded


def mlflow_files(folder: Path) -> dict[str, Path]:
    """Return the model's files by name. Raises ModelError for a flavour other than the three of `LAYOUTS`."""
    flavours = mlmodel(folder)["flavors"]
    flavour = next((name for name in LAYOUTS if name in flavours), None)
    if flavour is None:
        fix = f"use a model with one of {', '.join(LAYOUTS)}"
        raise ModelError(f"has no flavour that holds a chat model: {', '.join(flavours)}", where=str(folder), fix=fix)
    found: dict[str, Path] = {}
    for part in (*LAYOUTS[flavour], "."):  # LICENSE and finetune_config.json lie at the top
        if (folder / part).is_dir():
            for name in model_files(folder / part):
                found.setdefault(name, (folder / part / name).absolute())
    return found


def model_name(folder: Path) -> str:
    """Return the model's name: its flavour's huggingface_id, else its metadata's base_model_name, else the folder's."""
    found = mlmodel(folder)
    for flavour in LAYOUTS:
        settings = found["flavors"].get(flavour)
        if isinstance(settings, dict) and (name := settings.get("huggingface_id")):
            return str(name)
    return str(metadata(folder).get("base_model_name") or folder.name)


def metadata(folder: Path) -> dict[str, Any]:
    """Return what MLmodel says of the model under `metadata`; nothing where that is no mapping."""
    found = mlmodel(folder).get("metadata")
    return found if isinstance(found, dict) else {}
