"""`LocalMLClient`: what azure.ai.ml.MLClient is to a workspace of Azure, on a workspace of this machine."""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

from azure.ai.ml import MLClient
from azure.ai.ml.entities import (
    Component,
    Compute,
    Data,
    Environment,
    Job,
    Model,
    OnlineDeployment,
    OnlineEndpoint,
)
from azure.core.polling import LROPoller

from penala.azure.failures import refusal
from penala.azure.operations.components import ComponentOperations
from penala.azure.operations.compute import ComputeOperations
from penala.azure.operations.data import DataOperations
from penala.azure.operations.deployments import OnlineDeploymentOperations
from penala.azure.operations.endpoints import OnlineEndpointOperations
from penala.azure.operations.environments import EnvironmentOperations
from penala.azure.operations.jobs import JobOperations
from penala.azure.operations.models import ModelOperations
from penala.azure.operations.workspaces import WorkspaceOperations
from penala.azure.place import NOBODY, AzurePlace
from penala.workspace.client import FOLDER_NAME, locate

# one line for each experimental class; the SDK sets its own level when it is imported, which it was above
logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)

CONFIG = "config.json"
_BESIDE = ("", ".azureml", "aml_config", FOLDER_NAME)  # where a configuration lies in a folder
_MOST_PARENTS = 20
_SCOPE = re.compile(
    r"/subscriptions/(?P<subscription_id>[^/]+)/resourceGroups/(?P<resource_group>[^/]+)"
    r"/providers/[^/]+/workspaces/(?P<workspace_name>[^/]+)",
    re.IGNORECASE,
)
_GROUPS = (
    *("models", "components", "compute", "data", "environments", "workspaces", "jobs"),
    *("online_endpoints", "online_deployments"),
)


class LocalMLClient:
    """The operations of MLClient on the workspace in the folder `path`, else where `penala` finds it.

    The other arguments are MLClient's: a credential is never used, the names become part of ids, and with
    `registry_name`, whatever it is, the client reads the workspace's catalogue. The rest has no effect here.
    """

    def __init__(
        self,
        credential: Any = None,
        subscription_id: str | None = None,
        resource_group_name: str | None = None,
        workspace_name: str | None = None,
        registry_name: str | None = None,
        *,
        path: str | Path | None = None,
        **_: Any,
    ) -> None:
        folder = locate(path)
        self._place = place = AzurePlace(
            folder,
            subscription_id or NOBODY,
            resource_group_name or "local",
            workspace_name or _named(folder),
            registry_name,
        )
        self.models = ModelOperations(place)
        self.components = ComponentOperations(place)
        self.compute = ComputeOperations(place)
        self.data = DataOperations(place)
        self.environments = EnvironmentOperations(place)
        self.workspaces = WorkspaceOperations(place)
        self.jobs = JobOperations(place)
        self.online_endpoints = OnlineEndpointOperations(place)
        self.online_deployments = OnlineDeploymentOperations(place)

    @classmethod
    def from_config(
        cls, credential: Any = None, *, path: str | Path | None = None, file_name: str = CONFIG, **more: Any
    ) -> "LocalMLClient":
        """Return the client of the nearest config.json, from `path` or the working folder upwards.

        It is Azure's, or that of a workspace of this machine. Raises ValidationException when there is none.
        """
        file = _find_config(Path(path or ".").absolute(), file_name)
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise refusal(f"{file} is no JSON: {error}") from None
        if not isinstance(config, dict):
            raise refusal(f"{file} holds no JSON object")
        print(f"Found the config file in: {file}", file=sys.stderr)
        if "penala" in config:
            return cls(credential, workspace_name=config.get("workspace_name"), path=file.parent, **more)
        config = {**_names(str(config.get("Scope", ""))), **config}
        missing = [key for key in ("subscription_id", "resource_group", "workspace_name") if key not in config]
        if missing:
            raise refusal(f"{file} has no {', '.join(missing)}")
        return cls(credential, config["subscription_id"], config["resource_group"], config["workspace_name"], **more)

    def __getattr__(self, name: str) -> Any:
        """Say what the SDK's client has and this one has not."""
        if not name.startswith("_") and hasattr(MLClient, name):
            raise AttributeError(f"{name} of Azure ML is not there on this machine; there are {', '.join(_GROUPS)}")
        raise AttributeError(f"LocalMLClient has no attribute '{name}'")

    @property
    def subscription_id(self) -> str:
        """The subscription that the client was given."""
        return self._place.subscription

    @property
    def resource_group_name(self) -> str:
        """The resource group that the client was given."""
        return self._place.group

    @property
    def workspace_name(self) -> str | None:
        """The workspace's name; None for a registry's client."""
        return None if self._place.registry else self._place.workspace

    @property
    def path(self) -> Path:
        """The workspace's folder."""
        return self._place.folder

    def begin_create_or_update(self, entity: Any, **more: Any) -> LROPoller[Any]:
        """Create or change a compute, an endpoint or a deployment."""
        kinds: tuple[tuple[type, Any], ...] = (
            (Compute, self.compute),
            (OnlineEndpoint, self.online_endpoints),
            (OnlineDeployment, self.online_deployments),
        )
        poller: LROPoller[Any] = _operations(entity, kinds).begin_create_or_update(entity, **more)
        return poller

    def create_or_update(self, entity: Any, **more: Any) -> Any:
        """Create or change a job, a model, a data asset, an environment or a component."""
        kinds: tuple[tuple[type, Any], ...] = (
            (Job, self.jobs),
            (Model, self.models),
            (Data, self.data),
            (Environment, self.environments),
            (Component, self.components),
        )
        return _operations(entity, kinds).create_or_update(entity, **more)

    def __repr__(self) -> str:
        registry = f", registry_name={self._place.registry!r}" if self._place.registry else ""
        return f"LocalMLClient(path={str(self.path)!r}{registry})"


def _operations(entity: Any, kinds: tuple[tuple[type, Any], ...]) -> Any:
    """Return the operations for an entity's type. Raises TypeError for another type."""
    for kind, operations in kinds:
        if isinstance(entity, kind):
            return operations
    names = ", ".join(kind.__name__ for kind, _ in kinds)
    raise TypeError(f"{type(entity).__name__} is none of {names}")


def _names(scope: str) -> dict[str, str]:
    """Return the names in the id of a workspace, which Azure's older configurations hold instead of them."""
    found = _SCOPE.fullmatch(scope)
    return {} if found is None else found.groupdict()


def _named(folder: Path) -> str:
    """Return the name of the workspace in a folder, which may be still to be made."""
    try:
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["workspace_name"])
    except (OSError, ValueError, KeyError):
        return (folder.parent.name if folder.name == FOLDER_NAME else folder.name) or "penala"


def _find_config(start: Path, name: str) -> Path:
    """Return the configuration nearest to `start`, which may be the file itself."""
    if start.is_file():
        return start
    for folder in (start, *start.parents[:_MOST_PARENTS]):
        for beside in _BESIDE:
            if (file := folder / beside / name).is_file():
                return file
    fix = "`penala run` or `penala compute create` make a workspace, which has one"
    raise refusal(f"no {name} lies in {start} or above it; {fix}")
