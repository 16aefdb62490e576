"""`client.data`: data assets, kept in the workspace as they were when they were added."""

from collections.abc import Iterator
from typing import Any

from azure.ai.ml.entities import Data

from penala.azure.failures import refusal
from penala.azure.place import AzurePlace, path_at
from penala.workspace.client import Workspace
from penala.workspace.store import DataRow


class DataOperations:
    """The data assets of a client's workspace."""

    def __init__(self, place: AzurePlace) -> None:
        self._place = place

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Data:
        """Return a version. Raises ResourceNotFoundError."""
        wanted = self._place.asset_id("data", name, version, label)
        with self._place.opened() as workspace:
            return self._entity(workspace, workspace.data.get(wanted))

    def list(self, name: str | None = None, **_: Any) -> Iterator[Data]:
        """Return the versions of a name, or of all, newest first."""
        with self._place.opened() as workspace:
            found = [workspace.data.get(one["id"]) for one in reversed(workspace.data.list(name))]
            return iter([self._entity(workspace, row) for row in found])

    def create_or_update(self, data: Data) -> Data:
        """Keep a local file or folder, or an output of a job, as a version and return it."""
        self._place.require_workspace("data assets of your own")
        if not data.name or not data.path:
            raise refusal("a data asset needs a name and a path")
        fields = ("description", "tags", "properties")
        about = {field: value for field in fields if (value := getattr(data, field))}
        version = None if data.version is None else str(data.version)
        with self._place.opened() as workspace:
            path = path_at(workspace, str(data.path), str(data.type), data.base_path)
            row = workspace.data.add(data.name, path, version, str(data.type), about)
            return self._entity(workspace, row)

    def _entity(self, workspace: Workspace, row: DataRow) -> Data:
        about = row.about or {}
        return Data(
            name=row.name,
            version=row.version,
            type=row.type,
            path=str(workspace.data.path(row)),
            description=about.get("description"),
            tags=about.get("tags"),
            properties=about.get("properties"),
            id=self._place.asset_id("data", row.name, row.version),
        )
