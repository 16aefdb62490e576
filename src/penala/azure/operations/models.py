"""`client.models`: tuned versions of the workspace, or the base models of its catalogue for a registry client."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import Model

from penala.assets import Kind, require_name
from penala.azure.failures import expect, not_found, refusal
from penala.azure.operations.archive import AssetOperations
from penala.azure.operations.downloads import written_over
from penala.azure.place import job_of, path_at
from penala.workspace.artifacts import COMPILED, keep_copy
from penala.workspace.client import Workspace
from penala.workspace.store import ModelRow

DESCRIPTION = "description"  # the property that holds a model's description
TYPES = ("mlflow_model", "custom_model")


class ModelOperations(AssetOperations[Model]):
    """The model versions that a client sees."""

    _kind: ClassVar[Kind] = "models"

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Model:
        """Return a version. Raises ResourceNotFoundError."""
        wanted = self._place.asset_id("models", name, version, label)
        with self._place.opened() as workspace:
            shown = workspace.models.show(wanted)
        if shown["kind"] == "base" and self._place.registry is None:
            raise not_found(f"no model {name} is registered; a registry's client finds base models")
        return self._entity(shown)

    def list(
        self,
        name: str | None = None,
        stage: str | None = None,
        *,
        list_view_type: ListViewType = ListViewType.ACTIVE_ONLY,
    ) -> Iterator[Model]:
        """Return the versions of a name, newest first; without one, the newest of each name. None has a `stage`."""
        return self._listed(name, list_view_type) if stage is None else iter(())

    def create_or_update(self, model: Model) -> Model:
        """Register an output or artifact of a job, a local folder, or a file as a custom_model; return the version.

        Without a version it gets the next whole number. The same content again is the version that it has, whose
        description, tags and properties may change. Raises HttpResponseError for a version with other content.
        """
        self._place.require_workspace("models of your own")
        expect(model, Model, "model")
        if not model.name or not model.path:
            raise refusal("a model needs a name and a path")
        if model.type not in (None, *TYPES):
            raise refusal(f"a model's type is {' or '.join(TYPES)}, not {model.type}")
        version = None if model.version is None else str(model.version)
        with self._place.opened() as workspace:
            require_name(model.name, version)
            digest, job = _content(workspace, model)
            if model.type != "custom_model" and not (workspace.artifacts / digest / "MLmodel").is_file():
                raise refusal(f"{model.path} is no mlflow_model: it holds no file MLmodel; is it a custom_model?")
            properties = {**(model.properties or {}), **({DESCRIPTION: model.description} if model.description else {})}
            row = workspace.models.register(
                model.name, version, digest, job=job, tags=model.tags or {}, properties=properties
            )
            _retell(workspace, row, model, properties)
        return self.get(row.name, row.version)

    def download(self, name: str, version: str, download_path: str | Path = ".") -> None:
        """Copy a version to DOWNLOAD_PATH/NAME, over what is there, as the SDK does."""
        model = self.get(name, version)
        with self._place.opened() as workspace, written_over(Path(download_path) / name) as folder:
            workspace.models.download(str(model.id), folder)

    def _versions(self, workspace: Workspace, name: str | None) -> Iterable[Model]:
        kind = "tuned" if self._place.registry is None else "base"
        found = [one for one in workspace.models.list() if one["kind"] == kind and name in (None, one["name"])]
        found.reverse()  # of those of one second, the last one is the newest
        found.sort(key=lambda one: str(one["created"]), reverse=True)
        return [
            self._entity(workspace.models.show(self._place.asset_id("models", one["name"], one["version"])))
            for one in found
        ]

    def _entity(self, shown: dict[str, Any]) -> Model:
        properties = dict(shown.get("properties") or {})
        name, version = shown["name"], shown["version"]
        identity = self._place.asset_id("models", name, version)
        return Model(
            name=name,
            version=version,
            type=shown.get("type", "mlflow_model"),
            path=identity if shown["kind"] == "base" else shown["folder"],
            description=properties.pop(DESCRIPTION, None) or shown.get(DESCRIPTION),
            tags=dict(shown.get("tags") or {}),
            properties=properties,
            id=identity,
            job_name=shown.get("job"),
        )


def _content(workspace: Workspace, model: Model) -> tuple[str, str | None]:
    """Return the artifact that lies at a model's path, and the job that wrote it; what lies elsewhere is copied."""
    source = path_at(workspace, str(model.path), str(model.type), model.base_path)
    if source.parent == workspace.artifacts:
        return source.name, job_of(str(model.path))
    return keep_copy(workspace.store, source, without=COMPILED), job_of(str(model.path))


def _retell(workspace: Workspace, row: ModelRow, model: Model, properties: dict[str, Any]) -> None:
    """Write what a model says of itself to a version that was there already; only what came from there takes away."""
    told = {"tags": dict(model.tags or {}), "properties": properties}
    if not model.id:
        told = {"tags": told["tags"] or row.tags, "properties": row.properties | properties}
    if told != {"tags": row.tags, "properties": row.properties}:
        workspace.store.update(ModelRow, {"name": row.name, "version": row.version}, **told)
