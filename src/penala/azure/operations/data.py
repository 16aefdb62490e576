"""`client.data`: data assets, kept in the workspace as they were when they were added."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import Data

from penala.assets import Kind
from penala.azure.failures import expect, refusal
from penala.azure.operations.archive import AssetOperations
from penala.azure.place import path_at
from penala.workspace.client import Workspace
from penala.workspace.store import DataRow


class DataOperations(AssetOperations[Data]):
    """The data assets of a client's workspace."""

    _kind: ClassVar[Kind] = "data"

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Data:
        """Return a version. Raises ResourceNotFoundError."""
        wanted = self._place.asset_id("data", name, version, label)
        with self._place.opened() as workspace:
            return self._entity(workspace, workspace.data.get(wanted))

    def list(
        self, name: str | None = None, *, list_view_type: ListViewType = ListViewType.ACTIVE_ONLY, **_: Any
    ) -> Iterator[Data]:
        """Return the versions of a name, newest first; without one, the newest of each name."""
        return self._listed(name, list_view_type)

    def create_or_update(self, data: Data) -> Data:
        """Keep a local file or folder, or an output of a job, as a version and return it.

        The same content again is the version that it has, whose description, tags and properties may change.
        """
        self._place.require_workspace("data assets of your own")
        expect(data, Data, "data asset")
        if not data.name or not data.path:
            raise refusal("a data asset needs a name and a path")
        fields = ("description", "tags", "properties")
        about = {field: value for field in fields if (value := getattr(data, field))}
        version = None if data.version is None else str(data.version)
        with self._place.opened() as workspace:
            path = path_at(workspace, str(data.path), str(data.type), data.base_path)
            row = workspace.data.add(data.name, path, version, str(data.type), about)
            told = about if data.id else {**(row.about or {}), **about}
            if told != (row.about or {}):
                row = dataclasses.replace(row, about=told)
                workspace.store.update(DataRow, {"name": row.name, "version": row.version}, about=told)
            return self._entity(workspace, row)

    def _versions(self, workspace: Workspace, name: str | None) -> Iterable[Data]:
        found = [workspace.data.get(one["id"]) for one in reversed(workspace.data.list(name))]
        return [self._entity(workspace, row) for row in found]

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
