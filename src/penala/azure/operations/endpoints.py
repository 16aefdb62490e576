"""`client.online_endpoints`: keyed addresses of this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from azure.ai.ml.entities import EndpointAuthKeys, ManagedOnlineEndpoint, OnlineEndpoint
from azure.core.polling import LROPoller

from penala.azure.failures import expect, refusal
from penala.azure.operations.about import About
from penala.azure.operations.base import Operations
from penala.azure.place import endpoint_of
from penala.azure.poller import begin
from penala.workspace.client import Workspace


class OnlineEndpointOperations(Operations):
    """The endpoints of a client's workspace. Each is local already: `local` makes no difference."""

    def begin_create_or_update(self, endpoint: OnlineEndpoint, *, local: bool = False) -> LROPoller[OnlineEndpoint]:
        """Make an endpoint with fresh keys, or give it another split of the traffic and another description."""
        self._place.require_workspace("endpoints")
        expect(endpoint, OnlineEndpoint, "endpoint")
        if not endpoint.name:
            raise refusal("an endpoint needs a name")
        if str(endpoint.auth_mode).lower() != "key":
            raise refusal(f"auth_mode is {endpoint.auth_mode}; an endpoint here asks for a key")
        if any((endpoint.mirror_traffic or {}).values()):
            raise refusal("mirror_traffic does not run here; leave it out")
        traffic = {name.lower(): percent for name, percent in (endpoint.traffic or {}).items() if percent}

        def create() -> OnlineEndpoint:
            with self._place.opened() as workspace:
                name = endpoint_of(workspace, str(endpoint.name))
                workspace.endpoints.create(name)
                fields = ("description", "tags", "properties")
                About(workspace.folder, name).keep(
                    **{field: value for field in fields if (value := getattr(endpoint, field))}
                )
                return self._entity(workspace, workspace.endpoints.set_traffic(name, traffic))

        return begin(create)

    def get(self, name: str, *, local: bool = False) -> OnlineEndpoint:
        """Return an endpoint. Raises ResourceNotFoundError."""
        with self._place.opened() as workspace:
            return self._entity(workspace, workspace.endpoints.show(endpoint_of(workspace, name)))

    def list(self, *, local: bool = False) -> Iterator[OnlineEndpoint]:
        """Return all endpoints."""
        with self._place.opened() as workspace:
            return iter([self._entity(workspace, shown) for shown in workspace.endpoints.list()])

    def begin_delete(self, name: str, *, local: bool = False) -> LROPoller[None]:
        """Remove an endpoint with its deployments and its keys."""

        def delete() -> None:
            with self._place.opened() as workspace:
                workspace.endpoints.delete(endpoint_of(workspace, name))

        return begin(delete)

    def get_keys(self, name: str) -> EndpointAuthKeys:
        """Return both keys."""
        with self._place.opened() as workspace:
            return EndpointAuthKeys(**workspace.endpoints.keys(endpoint_of(workspace, name)))

    def begin_regenerate_keys(self, name: str, *, key_type: str = "primary") -> LROPoller[None]:
        """Replace the primary or the secondary key."""

        def regenerate() -> None:
            with self._place.opened() as workspace:
                workspace.endpoints.regenerate_key(endpoint_of(workspace, name), key_type.lower())

        return begin(regenerate)

    def invoke(
        self,
        endpoint_name: str,
        *,
        request_file: str | Path | None = None,
        deployment_name: str | None = None,
        input_data: str | None = None,
        local: bool = False,
        **_: Any,
    ) -> str:
        """Send the JSON of a file to `/score`, to one deployment or as the traffic is split; return the answer's text.

        Raises ValidationException for a deployment that is not there, HttpResponseError with what the endpoint answers.
        """
        if request_file is None:
            raise refusal("request_file is missing: the file with the JSON to send; input_data is for batch endpoints")
        try:
            body = json.loads(Path(request_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise refusal(f"{request_file} cannot be sent: {error}") from None
        with self._place.opened() as workspace:
            endpoint_name = endpoint_of(workspace, endpoint_name)
            known = [one["name"] for one in workspace.endpoints.deployments(endpoint_name)]
            if deployment_name is not None and deployment_name not in known:
                raise refusal(f"Deployment name {deployment_name} not found for this endpoint; it has {known}")
            answer = workspace.endpoints.invoke(endpoint_name, body, deployment=deployment_name)
        return json.dumps(answer, ensure_ascii=False)

    def _entity(self, workspace: Workspace, shown: dict[str, Any]) -> ManagedOnlineEndpoint:
        about = About(workspace.folder, shown["name"]).read()
        properties = {**about.get("properties", {}), "openai_base_url": shown["openai_base_url"]}
        more: dict[str, Any] = {
            "scoring_uri": shown["scoring_uri"],
            "provisioning_state": shown["provisioning_state"],
            "id": f"{self._place.id}/onlineEndpoints/{shown['name']}",
        }
        return ManagedOnlineEndpoint(
            name=shown["name"],
            auth_mode="key",
            description=about.get("description"),
            tags=about.get("tags", {}),
            properties=properties,
            traffic=shown["traffic"],
            **more,
        )
