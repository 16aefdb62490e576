"""`client.components`: what penala ships and what the user added, for workspaces and registries alike."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from azure.ai.ml import load_component
from azure.ai.ml.entities import Component

from penala.assets import LATEST
from penala.azure.failures import refusal
from penala.azure.place import AzurePlace


class ComponentOperations:
    """The components that jobs of a client may name."""

    def __init__(self, place: AzurePlace) -> None:
        self._place = place

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Component:
        """Return a component, which is a function that makes a step. Without version and label, the newest."""
        newest = LATEST if version is None and label is None else label
        wanted = self._place.asset_id("components", name, version, newest)
        with self._place.opened() as workspace:
            return load_component(workspace.components.get(wanted))

    def list(self, name: str | None = None, **_: Any) -> Iterator[Component]:
        """Return every version, or those of one name, newest first."""
        with self._place.opened() as workspace:
            found = [one for one in workspace.components.list() if name in (None, one["name"])]
            return iter([load_component(one["path"]) for one in reversed(found)])

    def create_or_update(self, component: Any, version: str | None = None, **_: Any) -> Component:
        """Keep a component, with the code that it names, and return it as it was kept."""
        self._place.require_workspace("components of your own")
        component = getattr(component, "component", component)  # what `command(...)` and @pipeline functions make
        if not isinstance(component, Component):
            raise refusal(f"{type(component).__name__} is no component; make one with load_component or command")
        with self._place.opened() as workspace, tempfile.TemporaryDirectory() as work:
            file = Path(work) / "component.yaml"
            component.dump(file)
            row = workspace.components.add(file, version)
        return self.get(row.name, row.version)
