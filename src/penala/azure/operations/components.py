"""`client.components`: what penala ships and what the user added, for workspaces and registries alike."""

import inspect
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from azure.ai.ml import load_component
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import Component

from penala.assets import LATEST, Kind
from penala.azure.failures import refusal
from penala.azure.operations.archive import AssetOperations
from penala.workspace.client import Workspace


class ComponentOperations(AssetOperations[Component]):
    """The components that jobs of a client may name."""

    _kind: ClassVar[Kind] = "components"

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Component:
        """Return a component, which is a function that makes a step. Without version and label, the newest."""
        newest = LATEST if version is None and label is None else label
        wanted = self._place.asset_id("components", name, version, newest)
        with self._place.opened() as workspace:
            return load_component(workspace.components.get(wanted))

    def list(
        self, name: str | None = None, *, list_view_type: ListViewType = ListViewType.ACTIVE_ONLY, **_: Any
    ) -> Iterator[Component]:
        """Return the versions of a name, newest first; without one, the newest of each name."""
        return self._listed(name, list_view_type)

    def create_or_update(self, component: Any, version: str | None = None, **_: Any) -> Component:
        """Keep a component, with the code that it names, and return it as it was kept."""
        self._place.require_workspace("components of your own")
        if inspect.isfunction(component):  # of @pipeline: it builds the pipeline
            component = component()
        component = getattr(component, "component", component)  # what `command(...)` and @pipeline functions make
        if not isinstance(component, Component):
            raise refusal(f"{type(component).__name__} is no component; make one with load_component or command")
        with self._place.opened() as workspace, tempfile.TemporaryDirectory() as work:
            file = Path(work) / "component.yaml"
            component.dump(file)
            row = workspace.components.add(file, version)
        return self.get(row.name, row.version)

    def _versions(self, workspace: Workspace, name: str | None) -> Iterable[Component]:
        found = [one for one in workspace.components.list() if name in (None, one["name"])]
        return [load_component(one["path"]) for one in reversed(found)]
