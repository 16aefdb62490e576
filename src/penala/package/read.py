"""Read a package back, without MLflow: its plain model folder, its template lock, and what it says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penala.basemodel.folder import check_folder
from penala.errors import ModelError, PackageError, TokensError
from penala.tokens.lock import FILE as LOCK
from penala.tokens.lock import TemplateLock


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk. `lock` is None for a base model, which was not trained here."""

    folder: Path
    model_folder: Path
    lock: TemplateLock | None
    metadata: Mapping[str, Any]


def read_package(folder: Path) -> Package:
    """Read the MLflow model folder `folder`. Raises PackageError that names the part that is missing or damaged."""
    mlmodel = _mlmodel(folder)
    flavours = mlmodel.get("flavors")
    flavour = flavours.get("transformers") if isinstance(flavours, dict) else None
    if not isinstance(flavour, dict):
        raise PackageError("has no transformers flavour", where=str(folder / "MLmodel"), fix="package the model again")
    model = folder / str(flavour.get("model_binary", "model"))
    metadata = mlmodel.get("metadata") or {}
    try:
        check_folder(model)
        lock = TemplateLock.load(model / LOCK) if (model / LOCK).is_file() else None
    except (ModelError, TokensError) as error:
        raise PackageError(error.what, where=error.where, fix="package or download the model again") from None
    if lock is None and metadata.get("is_finetuned_model"):
        raise PackageError(f"{LOCK} is missing", where=str(model), fix="package or download the model again")
    return Package(folder, model, lock, metadata)


def _mlmodel(folder: Path) -> dict[str, Any]:
    path = folder / "MLmodel"
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackageError("MLmodel is missing", where=str(folder), fix="name an MLflow model folder") from None
    except (yaml.YAMLError, ValueError):  # ValueError: no UTF-8, or what looks like a date and is none
        loaded = None
    if not isinstance(loaded, dict):
        raise PackageError("cannot be read as YAML", where=str(path), fix="package or download the model again")
    return loaded
