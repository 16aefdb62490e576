"""The processes of an endpoint: where each has its folder, how it is started, when it is ready.

    endpoints/ENDPOINT/keys.json, routes.json
                       gateway/                       the gateway's shim folder
                       deployments/NAME/INSTANCE/     one start of a deployment: shim folder and socket

What should run is in the store. A deployment's settings name its instances,

    {"serving": INSTANCE or null, "starting": INSTANCE or null}
    INSTANCE = {"instance": number, "model", "version", "folder": model folder, "request_settings": {...}}

"starting" is one that may take the place of "serving" once it is ready.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penala.workspace import shim
from penala.workspace.store import DeploymentRow, EndpointRow, Store

DELETING = "Deleting"
READY = "ready"
SOCKET = "socket"
_GATEWAY_GRACE_S = 2.0
_DRAIN_S = 30.0  # for the replies that an instance still writes when another one takes its place


@dataclass(frozen=True, slots=True)
class Service:
    """A process that should run; `keep`: it is started again whenever it ends."""

    folder: Path
    argv: tuple[str, ...]
    cwd: Path
    grace_s: float
    keep: bool


def endpoint_folder(workspace: Path, endpoint: str) -> Path:
    """Return where an endpoint keeps everything but its row."""
    return workspace / "endpoints" / endpoint


def instance_folder(workspace: Path, endpoint: str, deployment: str, instance: int) -> Path:
    """Return the shim folder of one start of a deployment."""
    return endpoint_folder(workspace, endpoint) / "deployments" / deployment / str(instance)


def gateway(workspace: Path, row: EndpointRow) -> Service:
    """Return the gateway of an endpoint."""
    folder = endpoint_folder(workspace, row.name)
    argv = (*_module("penala.endpoint.gateway"), "--port", str(row.port), "--ready", f"gateway/{READY}")
    return Service(folder / "gateway", argv, folder, _GATEWAY_GRACE_S, keep=True)


def instances(workspace: Path, row: DeploymentRow) -> list[Service]:
    """Return the instances of a deployment that should run."""
    services = []
    for role in ("serving", "starting"):
        if (instance := row.settings.get(role)) is not None:
            folder = instance_folder(workspace, row.endpoint, row.name, instance["instance"])
            services.append(Service(folder, _deployment_argv(instance), folder, _DRAIN_S, keep=role == "serving"))
    return services


def _deployment_argv(instance: Mapping[str, Any]) -> tuple[str, ...]:
    settings = [text for key, value in instance["request_settings"].items() for text in (f"--{key}", str(value))]
    name = f"{instance['model']}:{instance['version']}"
    paths = ("--model", instance["folder"], "--socket", SOCKET, "--ready", READY)
    return (*_module("penala.endpoint.deployment"), "--name", name, *paths, *settings)


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", name)  # -P: the working folder is no place to import from


def start(service: Service) -> subprocess.Popen[bytes]:
    """Start a service that is down; return the process of its shim."""
    service.folder.mkdir(parents=True, exist_ok=True)
    (service.folder / READY).unlink(missing_ok=True)
    command = {"argv": service.argv, "cwd": str(service.cwd), "grace_s": service.grace_s}
    shim.write_json(service.folder / "cmd.json", command)
    return shim.launch(service.folder)


def is_ready(folder: Path) -> bool:
    """Tell whether the service of this folder takes requests."""
    return (folder / READY).exists() and shim.alive(folder)


def has_ended(folder: Path) -> bool:
    """Tell whether the service of this folder was started and has ended, by itself or on request."""
    return not shim.alive(folder) and shim.read_exit(folder) is not None


def service_folders(folder: Path, deployment: str = "*") -> list[Path]:
    """Return the shim folders below an endpoint's folder: those of one deployment, or all with the gateway's."""
    found = [path for path in folder.glob(f"deployments/{deployment}/*") if path.is_dir()]
    return [folder / "gateway", *found] if deployment == "*" else found


def last_lines(folder: Path, lines: int) -> list[str]:
    """Return the end of a service's log."""
    try:
        text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


def routes(endpoint: EndpointRow, deployments: Iterable[DeploymentRow]) -> dict[str, Any]:
    """Return what an endpoint's gateway reads: the split, and the socket of each deployment that serves."""
    sockets = {
        row.name: f"deployments/{row.name}/{serving['instance']}/{SOCKET}"
        for row in deployments
        if row.state != DELETING and (serving := row.settings.get("serving")) is not None
    }
    return {"endpoint": endpoint.name, "traffic": endpoint.traffic, "deployments": sockets}


def sync_routes(workspace: Path, store: Store, endpoint: str) -> None:
    """Write the routes of an endpoint as the store has them; inside the transaction, so that the newest ones win."""
    with store.transaction():
        row = store.get(EndpointRow, name=endpoint)
        if row is not None:
            found = routes(row, store.find(DeploymentRow, endpoint=endpoint))
            shim.write_json(endpoint_folder(workspace, endpoint) / "routes.json", found)


def routes_are_old(workspace: Path, endpoint: EndpointRow, deployments: Iterable[DeploymentRow]) -> bool:
    """Tell whether the gateway reads something else than these rows say."""
    try:
        text = (endpoint_folder(workspace, endpoint.name) / "routes.json").read_text(encoding="utf-8")
        return bool(json.loads(text) != routes(endpoint, deployments))
    except (OSError, ValueError):
        return True
