"""Where a client's workspace lies, what it is called in Azure's ids, and the way in."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penala.assets import LATEST, Kind
from penala.azure.failures import expect_name, refusal, sdk_exceptions
from penala.workspace.addresses import Addresses
from penala.workspace.client import Workspace
from penala.workspace.places import Place

NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class AzurePlace:
    """A workspace of this machine under the names that Azure would give it; with `registry`, its catalogue."""

    folder: Path
    subscription: str
    group: str
    workspace: str
    registry: str | None = None

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Open the workspace for the calling thread, made where there is none; errors come out as the SDK's."""
        with sdk_exceptions(), Workspace.open(self.folder, create=True) as workspace:
            yield workspace

    @property
    def id(self) -> str:
        """The workspace's id."""
        owner = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
        return f"{owner}/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"

    def asset_id(self, kind: Kind, name: str, version: object = None, label: str | None = None) -> str:
        """Return the id of a version, or of the newest by its label, after the SDK's own checks of the two."""
        expect_name(name, f"one of the {kind}")
        if version is not None and label is not None:
            raise refusal("Cannot specify both version and label.")
        if version is None and label is None:
            raise refusal("Must provide either version or label.")
        if label not in (None, LATEST):
            raise refusal(f"{name} has no label {label!r}; the one label is {LATEST}")
        home = f"azureml://registries/{self.registry}" if self.registry else self.id
        return f"{home}/{kind}/{name}/" + (f"versions/{version}" if label is None else f"labels/{label}")

    def require_workspace(self, what: str) -> None:
        """Refuse what a registry does not have."""
        if self.registry is not None:
            raise refusal(f"registry '{self.registry}' has no {what}; use a client of a workspace")


def path_at(workspace: Workspace, address: str, kind: str, folder: object) -> Path:
    """Return the file or folder that an entity's path means; relative ones start at `folder`."""
    return Path(Addresses(workspace)(address, kind, Place("path", Path(str(folder)).resolve())).path)


def report(event: Mapping[str, Any]) -> None:
    """Print what long work says on its way."""
    if event["event"] == "note":
        print(event["text"])


def endpoint_of(workspace: Workspace, name: str) -> str:
    """Return the name of an endpoint as it was made; Azure's names are the same in any letter case."""
    expect_name(name, "an endpoint")
    names = [one["name"] for one in workspace.endpoints.list()]
    return name if name in names else next((one for one in names if one.lower() == name.lower()), name)


def job_of(address: str) -> str | None:
    """Return the job of azureml://jobs/JOB[/STEP]/outputs/OUTPUT, else None."""
    found = re.match(r"azureml://jobs/([^/]+)(?:/[^/]+)?/outputs/", address)
    return found[1] if found else None
