"""Start a model version beside the one that serves, and let it take over once it is ready."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penala.errors import EndpointError
from penala.workspace import services, shim
from penala.workspace.store import DeploymentRow, Store
from penala.workspace.supervisor import ensure

Report = Callable[[dict[str, Any]], None]

_LOOK_S = 0.1
_START_TIMEOUT_S = 600.0
_LAST_WORDS = 5  # lines of a log that an error shows


def roll_out(
    workspace: Path, store: Store, endpoint: str, deployment: str, wanted: Mapping[str, Any], report: Report
) -> None:
    """Have the deployment serve what is `wanted` (an INSTANCE of `services`, without its number).

    What served until now goes on until the new instance is ready, and stays when that fails with EndpointError. Nothing
    is started where the same is serving already.
    """
    row = store.get(DeploymentRow, endpoint=endpoint, name=deployment)
    serving = row.settings.get("serving") if row is not None else None
    what = f"deployment '{deployment}' of endpoint '{endpoint}'"
    if serving is not None and serving == {**wanted, "instance": serving["instance"]}:
        await_ready(workspace, services.instance_folder(workspace, endpoint, deployment, serving["instance"]), what)
        return
    instance = _begin(workspace, store, endpoint, deployment, wanted)
    folder = services.instance_folder(workspace, endpoint, deployment, instance)
    started = time.monotonic()
    report({"event": "note", "text": f"starting {what}"})
    try:
        await_ready(workspace, folder, what, since=0.0)
    except BaseException:  # Ctrl-C included: nobody would take it over
        _end_start(store, endpoint, deployment, instance, succeeded=False)
        raise
    if not _end_start(store, endpoint, deployment, instance, succeeded=True):
        raise EndpointError(f"{what} was changed by somebody else", fix="deploy again")
    services.sync_routes(workspace, store, endpoint)
    report({"event": "note", "text": f"{what} is ready after {time.monotonic() - started:.1f} s"})


def await_ready(workspace: Path, folder: Path, what: str, *, since: float | None = None) -> None:
    """Wait until the service of a folder takes requests.

    Raises EndpointError with the end of its log when it ends after `since` (seconds since 1970; unset: now).
    """
    since = time.time() if since is None else since
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not services.is_ready(folder):
        ended = None if shim.alive(folder) else shim.read_exit(folder)
        if ended is not None and ended["ended"] > since:
            lines = services.last_lines(folder, _LAST_WORDS)
            said = "".join(f"\n  {line}" for line in lines) or " without a word"
            raise EndpointError(
                f"{what} ended with {ended['rc']} while it started:{said}", where=str(folder / "log.txt")
            )
        look_again(workspace, deadline, f"{what} is not ready", folder / "log.txt")


def look_again(workspace: Path, deadline: float, what: str, log: Path) -> None:
    """Sleep a moment, with the supervisor up; raise EndpointError at the deadline (of the monotonic clock)."""
    if time.monotonic() > deadline:
        raise EndpointError(what, where=str(log), fix="see the log; the same command again goes on waiting")
    ensure(workspace)
    time.sleep(_LOOK_S)


def _begin(workspace: Path, store: Store, endpoint: str, deployment: str, wanted: Mapping[str, Any]) -> int:
    """Have an instance started and return its number; one that is starting for the same is taken over."""
    with store.transaction():
        row = store.get(DeploymentRow, endpoint=endpoint, name=deployment)
        settings = row.settings if row is not None else {}
        serving, starting = settings.get("serving"), settings.get("starting")
        if starting is not None and starting == {**wanted, "instance": starting["instance"]}:
            folder = services.instance_folder(workspace, endpoint, deployment, starting["instance"])
            if not services.has_ended(folder):
                return int(starting["instance"])
        folders = services.service_folders(services.endpoint_folder(workspace, endpoint), deployment)
        instance = max([int(folder.name) for folder in folders], default=0) + 1
        services.instance_folder(workspace, endpoint, deployment, instance).mkdir(parents=True)
        settings = {"serving": serving, "starting": {**wanted, "instance": instance}}
        if row is None or serving is None:
            new = DeploymentRow(endpoint, deployment, wanted["model"], wanted["version"], "Creating", settings)
            store.insert(new, replace=True)
        else:
            store.update(DeploymentRow, {"endpoint": endpoint, "name": deployment}, state="Updating", settings=settings)
    return instance


def _end_start(store: Store, endpoint: str, deployment: str, instance: int, *, succeeded: bool) -> bool:
    """Let the starting instance serve, or give up on it; False when it is no longer the one that is starting."""
    where = {"endpoint": endpoint, "name": deployment}
    with store.transaction():
        row = store.get(DeploymentRow, **where)
        starting = row.settings.get("starting") if row is not None else None
        if row is None or starting is None or starting["instance"] != instance:
            return False
        serving = starting if succeeded else row.settings.get("serving")
        state = "Failed" if serving is None else "Succeeded"
        store.update(DeploymentRow, where, state=state, settings={"serving": serving, "starting": None})
        if succeeded:
            names = {"model": starting["model"], "version": starting["version"], "instance": instance}
            store.update(DeploymentRow, where, **names)
    return True
