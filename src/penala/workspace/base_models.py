"""What a recipe's `base_model` means: a name of the catalogue, a folder, or an id on the hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import ModelError, NotFound

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry

_REGISTRY = re.compile(r"^azureml://registries/[^/]+/models/([^/]+)/(?:versions/([^/]+)|labels/latest)$")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model as the pipeline takes it: `inputs` of the import step, and what its publisher sets by default."""

    text: str
    inputs: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    entry: "Entry | None" = None
    folder: Path | None = None


def find_base_model(text: str, folder: Path) -> BaseModel:
    """Return the base model that `text` names; a relative path starts at `folder`.

    Raises ModelError for a folder that holds no model, NotFound for a name that nothing answers to.
    """
    from penala.basemodel import catalogue

    if match := _REGISTRY.match(text):
        return _catalogued(text, match[1], match[2])
    path = folder / Path(text).expanduser()
    if path.is_dir():
        return _in_folder(text, path.absolute())
    if path.exists():
        raise ModelError("is a file, not a model folder", where=str(path), fix="name the folder that holds config.json")
    if text.startswith((".", "/", "~")):
        raise ModelError("no such folder", where=str(path), fix="name a folder, a hub id, or one of `penala models list`")
    name, _, version = text.partition(":")
    try:
        return _catalogued(text, name, version or None)
    except NotFound:
        if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            return BaseModel(text, {"huggingface_id": text})
        raise


def _catalogued(text: str, name: str, version: str | None) -> BaseModel:
    from penala.basemodel import catalogue

    entry = catalogue.get(name, version)
    return BaseModel(text, {"catalogue_model": f"{entry.name}:{entry.version}"}, entry.model_defaults, entry)


def _in_folder(text: str, path: Path) -> BaseModel:
    from penala.basemodel.sources import check_folder

    if (path / "MLmodel").is_file():
        return BaseModel(text, {"mlflow_model_path": str(path)}, folder=path)
    check_folder(path)
    return BaseModel(text, {"pytorch_model_path": str(path)}, folder=path)
