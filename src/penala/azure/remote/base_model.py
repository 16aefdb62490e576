"""The base model that a recipe names, as Azure ML knows it: whether it may still be tuned, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from azure.ai.ml import Input, MLClient
from azure.ai.ml.entities import Model
from azure.core.exceptions import HttpResponseError

from penala.assets import LATEST, AssetName, is_asset, parse
from penala.azure.remote.connection import Connection, Registry
from penala.azure.remote.reasons import during
from penala.errors import ModelError, NotFound, RecipeError
from penala.recipe import Recipe

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry

Components = Literal["azureml", "penala"]
Purpose = Literal["finetune", "inference"]
SYSTEM_REGISTRY = "azureml"
RETIREMENT = {"finetune": "FinetuneRetirementDate", "inference": "InferenceRetirementDate"}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model: `inputs` name it to the pipeline, `entry` holds its tags, properties and system_metadata."""

    entry: "Entry"
    inputs: Mapping[str, Any]
    archived: bool = False
    notes: list[str] = field(default_factory=list)

    def retired(self, purpose: Purpose) -> str | None:
        """Return the ISO date on which it was retired for a purpose, or None while it lives."""
        name = RETIREMENT[purpose]
        metadata = self.entry.system_metadata.get("deprecation")
        when = self.entry.tags.get(name) or (_find(metadata, name) if isinstance(metadata, Mapping) else None)
        return when if when and when <= date.today().isoformat() else None

    def minimum(self, purpose: Purpose) -> tuple[int, int, int] | None:
        """Return the (vCPUs, GPUs, GiB of memory) that the publisher asks for at least, or None where nothing says."""
        skus = self.entry.system_metadata.get("SKU")
        text = self.entry.properties.get(f"{purpose}-min-sku-spec") or (
            skus.get(f"{purpose}MinSkuSpec") if isinstance(skus, Mapping) else None
        )
        numbers = str(text or "").split("|")[:3]
        if len(numbers) < 3 or not all(number.strip().isdigit() for number in numbers):
            return None
        return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _find(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return a date of system_metadata, whose names begin with a small letter or a capital one."""
    return next((str(value) for key, value in metadata.items() if key.lower() == name.lower()), None)


def look_up(connection: Connection, recipe: Recipe, components: Components) -> BaseModel:
    """Find the base model: an asset's id, a NAME[:VERSION] of the registry azureml, a hub id or a folder.

    What only penala's catalogue knows runs with penala's own components. Raises NotFound, ModelError or RecipeError.
    """
    from penala.basemodel import catalogue
    from penala.basemodel.catalogue import FolderSource, GgufSource, HubSource, MlflowSource

    text = recipe.base_model.strip()
    if is_asset(text):
        wanted = parse(text, "models")
        if wanted.registry is None:
            return _of_client(connection.ml, wanted, None)
        return _of_registry(connection, wanted, wanted.registry)
    try:
        entry = catalogue.resolve(text, folder=recipe.folder)
    except NotFound:
        entry = None
    source = entry.sources[0] if entry is not None and not entry.created else None
    if isinstance(source, HubSource):
        return BaseModel(_nameless(text), {"huggingface_id": source.repo})
    if isinstance(source, FolderSource | MlflowSource):
        return _of_folder(Path(source.path), isinstance(source, MlflowSource))
    if isinstance(source, GgufSource):
        fix = "name the folder of its safetensors weights, or its hub id"
        raise RecipeError("a .gguf file cannot be tuned on Azure ML", where=f"base_model: {text}", fix=fix)
    try:
        return _of_registry(connection, parse(text, "models"), SYSTEM_REGISTRY)
    except NotFound as error:
        if entry is None:
            raise
        if components != "penala":
            fix = f"`--components penala` fetches {entry.name} itself; or name a model of the registry"
            raise NotFound(error.what, fix=fix) from None
        note = f"{entry.reference} is in penala's catalogue, not in Azure's registry; the import step fetches it"
        return BaseModel(entry, {"catalogue_model": entry.reference}, notes=[note])


def _of_registry(connection: Connection, wanted: AssetName, name: str) -> BaseModel:
    registry = connection.registry(name)
    return _of_client(registry.client, wanted, registry)


def _of_client(client: MLClient, wanted: AssetName, registry: Registry | None) -> BaseModel:
    where = f"the registry {registry.name}" if registry else "the workspace"
    version = {"label": LATEST} if wanted.version == LATEST else {"version": wanted.version}
    with during(f"looking up the base model {wanted} in {where}", ModelError):
        try:
            model = client.models.get(wanted.name, **version)
        except HttpResponseError as error:
            if error.status_code != 404:
                raise
            fix = "Azure's model catalogue shows what there is; a hub id or a folder will do too"
            raise NotFound(f"{where} has no base model {wanted}", fix=fix) from error
    properties = registry.properties(model.id) if registry else {}
    port = {"mlflow_model": "mlflow_model_path", "custom_model": "pytorch_model_path"}.get(str(model.type))
    if port is None:
        raise ModelError(f"{wanted} is a {model.type}", fix="tuning takes an mlflow_model or a custom_model")
    inputs = {port: model.id if port == "mlflow_model_path" else Input(type="custom_model", path=model.id)}
    return BaseModel(_entry(model, properties), inputs, archived=bool(properties.get("isArchived")))


def _entry(model: Model, properties: Mapping[str, Any]) -> "Entry":
    """Return what is known of a model of Azure's as an entry of a catalogue."""
    from penala.basemodel.catalogue import Entry, shipped

    known = next((entry for entry in shipped() if entry.name == model.name), None)
    plain = [{key: str(value) for key, value in (found or {}).items()} for found in (model.tags, model.properties)]
    return Entry(
        name=str(model.name),
        version=str(model.version),
        sources=(),
        parameters=known.parameters if known else None,
        tags=plain[0],
        properties=plain[1],
        system_metadata=dict(properties.get("systemMetadata") or {}),
    )


def _nameless(text: str) -> "Entry":
    from penala.basemodel.catalogue import Entry

    return Entry(name=text.rpartition("/")[2], sources=())


def _of_folder(path: Path, is_mlflow: bool) -> BaseModel:
    from penala.basemodel.catalogue import Entry
    from penala.basemodel.folder import check_folder, count_parameters

    if is_mlflow:
        return BaseModel(_nameless(path.name), {"mlflow_model_path": Input(type="mlflow_model", path=str(path))})
    check_folder(path)
    entry = Entry(name=path.name, sources=(), parameters=count_parameters(path))
    return BaseModel(entry, {"pytorch_model_path": Input(type="custom_model", path=str(path))})
