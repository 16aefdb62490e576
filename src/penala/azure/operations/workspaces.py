"""`client.workspaces`: the one workspace that a client has."""

from collections.abc import Iterator
from typing import Any

from azure.ai.ml.entities import Workspace

from penala.azure.failures import not_found
from penala.azure.operations.base import Operations
from penala.workspace.mlflow_mirror import tracking_uri


class WorkspaceOperations(Operations):
    """The workspace of a client, as an entity."""

    def get(self, name: str | None = None, **_: Any) -> Workspace:
        """Return the workspace; `mlflow_tracking_uri` is where plain mlflow finds its runs and models."""
        if name not in (None, self._place.workspace):
            raise not_found(f"no workspace is called {name!r}; this client's is {self._place.workspace!r}")
        with self._place.opened() as workspace:
            return Workspace(
                name=self._place.workspace,
                display_name=self._place.workspace,
                description=str(workspace.folder),
                resource_group=self._place.group,
                location="local",
                mlflow_tracking_uri=tracking_uri(workspace.folder),
                id=self._place.id,
            )

    def list(self, **_: Any) -> Iterator[Workspace]:
        """Return the one workspace."""
        return iter([self.get()])
