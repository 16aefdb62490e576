"""Signing in, and the clients of a workspace and of a registry."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from azure.ai.ml import MLClient
from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential

from penala.azure.remote.reasons import during
from penala.azure.remote.target import Target
from penala.errors import WorkspaceError

# the SDK and the sign-in tell of every source that they try, and of every experimental class
for _name in ("azure.ai.ml", "azure.identity", "msal"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

MANAGEMENT = "https://management.azure.com/.default"


def sign_in(*, interactive: bool) -> TokenCredential:
    """Return a credential that Azure has taken: from the environment, `az login` and the like, else from the browser.

    The browser opens only when somebody sits there. Raises WorkspaceError when nothing signs in.
    """
    credential = DefaultAzureCredential()
    try:
        credential.get_token(MANAGEMENT)
    except ClientAuthenticationError as error:
        if not interactive:
            fix = "`az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            raise WorkspaceError(f"Azure does not sign you in: {_first_line(error)}", fix=fix) from error
        with during("signing in through the browser", WorkspaceError):
            browser = InteractiveBrowserCredential()
            browser.get_token(MANAGEMENT)
            return browser
    except AzureError:
        with during("signing in", WorkspaceError):
            raise
    return credential


def _first_line(error: Exception) -> str:
    """Return the reason of a refused sign-in: that of the source that knew who you are, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "AADSTS" in line or "Authentication failed" in line), lines[0])


class Registry:
    """A registry, with what its answers hold beyond the SDK's entities: system_metadata, and whether it is archived."""

    def __init__(self, credential: TokenCredential, name: str) -> None:
        self.name = name
        self.client = MLClient(
            credential,
            registry_name=name,
            enable_telemetry=False,
            show_progress=False,
            raw_response_hook=self._keep,
        )
        self._seen: dict[str, Mapping[str, Any]] = {}

    def _keep(self, response: Any) -> None:
        try:
            body = json.loads(response.http_response.text())
        except ValueError:  # an answer without a body
            return
        for one in body.get("value", [body]) if isinstance(body, Mapping) else ():
            if isinstance(one, Mapping) and isinstance(one.get("properties"), Mapping):
                self._seen[str(one.get("id"))] = one["properties"]

    def properties(self, asset_id: str | None) -> Mapping[str, Any]:
        """Return the properties of an asset that was looked up, as the registry sent them."""
        return self._seen.get(str(asset_id), {})


class Connection:
    """A signed-in person's workspace: `ml` is its MLClient."""

    def __init__(self, target: Target, *, interactive: bool = False) -> None:
        self.target = target
        self.credential = sign_in(interactive=interactive)
        self.ml = MLClient(
            self.credential,
            target.subscription,
            target.group,
            target.workspace,
            enable_telemetry=False,
            show_progress=False,
        )

    def registry(self, name: str) -> Registry:
        """Return a registry. Raises WorkspaceError when it cannot be reached."""
        with during(f"opening the registry {name}", WorkspaceError):
            return Registry(self.credential, name)
