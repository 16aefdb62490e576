"""`client.models`: tuned versions of the workspace, or the base models of its catalogue for a registry client."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from azure.ai.ml.entities import Model
from azure.core.exceptions import ResourceNotFoundError

from penala.azure.failures import refusal
from penala.azure.place import AzurePlace, job_of, path_at
from penala.workspace.artifacts import keep
from penala.workspace.client import Workspace

DESCRIPTION = "description"  # the property that holds a model's description
TYPES = ("mlflow_model", "custom_model")


class ModelOperations:
    """The model versions that a client sees."""

    def __init__(self, place: AzurePlace) -> None:
        self._place = place

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Model:
        """Return a version. Raises ResourceNotFoundError."""
        wanted = self._place.asset_id("models", name, version, label)
        with self._place.opened() as workspace:
            shown = workspace.models.show(wanted)
        if shown["kind"] == "base" and self._place.registry is None:
            raise ResourceNotFoundError(f"no model {name} is registered; a registry's client finds base models")
        return self._entity(shown)

    def list(self, name: str | None = None, stage: str | None = None, **_: Any) -> Iterator[Model]:
        """Return the versions of a name, or of all, newest first. No version here has a `stage`."""
        kind = "tuned" if self._place.registry is None else "base"
        with self._place.opened() as workspace:
            found = [one for one in workspace.models.list() if one["kind"] == kind and name in (None, one["name"])]
            found.reverse()  # of those of one second, the last one is the newest
            found.sort(key=lambda one: str(one["created"]), reverse=True)
        return iter([self.get(one["name"], one["version"]) for one in found if stage is None])

    def create_or_update(self, model: Model) -> Model:
        """Register an output of a job, or a local folder, and return the version.

        Without a version it gets the next whole number. Raises HttpResponseError for a version with other content.
        """
        self._place.require_workspace("models of your own")
        if not model.name or not model.path:
            raise refusal("a model needs a name and a path")
        if model.type not in (None, *TYPES):
            raise refusal(f"a model's type is {' or '.join(TYPES)}, not {model.type}")
        with self._place.opened() as workspace:
            digest, job = _content(workspace, model)
            if model.type != "custom_model" and not (workspace.artifacts / digest / "MLmodel").is_file():
                raise refusal(f"{model.path} is no mlflow_model: it holds no file MLmodel; is it a custom_model?")
            properties = {**(model.properties or {}), **({DESCRIPTION: model.description} if model.description else {})}
            version = None if model.version is None else str(model.version)
            row = workspace.models.register(
                model.name, version, digest, job=job, tags=model.tags or {}, properties=properties
            )
        return self.get(row.name, row.version)

    def download(self, name: str, version: str, download_path: str | Path = ".") -> None:
        """Copy a version to DOWNLOAD_PATH/NAME, as the SDK does."""
        model = self.get(name, version)
        with self._place.opened() as workspace:
            workspace.models.download(str(model.id), Path(download_path) / name)

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
    folder = path_at(workspace, str(model.path), str(model.type), model.base_path)
    if not folder.is_dir():
        raise refusal(f"{model.path} is a file; a model here is a folder")
    if folder.parent == workspace.artifacts:
        return folder.name, job_of(str(model.path))
    with tempfile.TemporaryDirectory(prefix=".model-", dir=workspace.artifacts) as work:
        copy = Path(work) / "copy"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        return keep(workspace.store, copy), job_of(str(model.path))
