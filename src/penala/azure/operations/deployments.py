"""`client.online_deployments`: model versions behind the endpoints of this machine."""

from collections.abc import Iterator
from typing import Any

from azure.ai.ml.entities import (
    ManagedOnlineDeployment,
    Model,
    OnlineDeployment,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.polling import LROPoller

from penala.azure.failures import expect, expect_name, not_found, refusal
from penala.azure.operations.about import About
from penala.azure.operations.base import Operations
from penala.azure.operations.models import ModelOperations
from penala.azure.place import endpoint_of, report
from penala.azure.poller import begin
from penala.workspace.client import Workspace

_OWN_CODE = ("code_configuration", "code_path", "scoring_script")
_REQUESTS = ("request_timeout_ms", "max_concurrent_requests_per_instance", "max_queue_wait_ms")
_PROBES = ("liveness_probe", "readiness_probe")
_PROBE = ("failure_threshold", "success_threshold", "timeout", "period", "initial_delay")
_SAID = ("description", "tags", "properties", "instance_type", "instance_count", "environment_variables")


class OnlineDeploymentOperations(Operations):
    """The deployments of a client's workspace. Each is local already: `local` makes no difference."""

    def begin_create_or_update(self, deployment: OnlineDeployment, **_: Any) -> LROPoller[OnlineDeployment]:
        """Put a model version behind an endpoint and wait until it answers; the traffic stays as it is.

        Probes, sizes and the number of instances are kept, not obeyed: it is ready as soon as it answers, and one
        instance runs here. Code of your own is refused: the model is served as its package says.
        """
        self._place.require_workspace("deployments")
        expect(deployment, OnlineDeployment, "deployment")
        expect_name(deployment.name, "a deployment")
        expect_name(deployment.endpoint_name, "the endpoint of a deployment")
        for field in _OWN_CODE:
            if getattr(deployment, field, None):
                raise refusal(f"{field} does not run here: an MLflow model needs none; leave it out")

        def create() -> OnlineDeployment:
            name, endpoint = str(deployment.name).lower(), str(deployment.endpoint_name)
            with self._place.opened() as workspace:
                endpoint = endpoint_of(workspace, endpoint)
                workspace.endpoints.show(endpoint)  # it must be there first
                model, version = self._model(workspace, deployment.model)
                asked = deployment.request_settings
                settings = {key: int(value) for key in _REQUESTS if (value := getattr(asked, key, None)) is not None}
                workspace.endpoints.deploy(endpoint, name, model, version, request_settings=settings, all_traffic=False)
                said = {field: value for field in _SAID if (value := getattr(deployment, field, None))}
                probes = {probe: _probe(getattr(deployment, probe, None)) for probe in _PROBES}
                About(workspace.folder, endpoint, name).keep(**said, **probes)
                return self._entity(workspace, _shown(workspace, endpoint, name))

        return begin(create)

    def get(self, name: str, endpoint_name: str, *, local: bool | None = False) -> OnlineDeployment:
        """Return a deployment. Raises ResourceNotFoundError."""
        with self._place.opened() as workspace:
            return self._entity(workspace, _shown(workspace, endpoint_name, name))

    def list(self, endpoint_name: str, *, local: bool = False) -> Iterator[OnlineDeployment]:
        """Return the deployments of an endpoint."""
        with self._place.opened() as workspace:
            found = workspace.endpoints.deployments(endpoint_of(workspace, endpoint_name))
            return iter([self._entity(workspace, one) for one in found])

    def begin_delete(self, name: str, endpoint_name: str, *, local: bool | None = False) -> LROPoller[None]:
        """Stop and remove a deployment that has no traffic."""

        def delete() -> None:
            with self._place.opened() as workspace:
                found = _shown(workspace, endpoint_name, name)
                workspace.endpoints.delete_deployment(found["endpoint"], found["name"])
                About(workspace.folder, found["endpoint"], found["name"]).forget()

        return begin(delete)

    def get_logs(self, name: str, endpoint_name: str, lines: int, **_: Any) -> str:
        """Return the last lines of a deployment's log."""
        with self._place.opened() as workspace:
            found = _shown(workspace, endpoint_name, name)
            return workspace.endpoints.logs(found["endpoint"], found["name"], lines)

    def _model(self, workspace: Workspace, given: Any) -> tuple[str, str]:
        """Return the name and version of a deployment's model: an id, NAME:VERSION, or an entity, registered first.

        A base model is registered under its own name and version first.
        """
        models = ModelOperations(self._place)
        if isinstance(given, Model):
            given = given.id or models.create_or_update(given).id
        if not given:
            raise refusal("a deployment needs a model")
        shown = workspace.models.show(str(given))
        if shown["kind"] == "base":
            package = str(workspace.models.folder(str(given), report))
            models.create_or_update(Model(name=shown["name"], version=shown["version"], path=package))
            print(f"{shown['name']}:{shown['version']} of the registry is registered in this workspace to be deployed")
        return shown["name"], shown["version"]

    def _entity(self, workspace: Workspace, shown: dict[str, Any]) -> ManagedOnlineDeployment:
        about = About(workspace.folder, shown["endpoint"], shown["name"]).read()
        probes: dict[str, Any] = {probe: ProbeSettings(**said) for probe in _PROBES if (said := about.pop(probe, None))}
        home = f"{self._place.id}/onlineEndpoints/{shown['endpoint']}"
        more: dict[str, Any] = {
            "provisioning_state": shown["provisioning_state"],
            "id": f"{home}/deployments/{shown['name']}",
        }
        return ManagedOnlineDeployment(
            name=shown["name"],
            endpoint_name=shown["endpoint"],
            model=self._place.asset_id("models", shown["model"], shown["version"]),
            request_settings=OnlineRequestSettings(**(shown["request_settings"] or {})),
            **about,
            **probes,
            **more,
        )


def _shown(workspace: Workspace, endpoint: str, name: str) -> dict[str, Any]:
    expect_name(name, "a deployment")
    known = workspace.endpoints.deployments(endpoint_of(workspace, endpoint))
    found = next((one for one in known if one["name"].lower() == name.lower()), None)
    if found is None:
        names = ", ".join(one["name"] for one in known) or "none"
        raise not_found(f"endpoint '{endpoint}' has no deployment '{name}'; it has {names}")
    return found


def _probe(probe: Any) -> dict[str, Any] | None:
    return None if probe is None else {key: getattr(probe, key) for key in _PROBE}
