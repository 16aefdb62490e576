"""Keep the endpoints of one workspace answering: a detached process that is there while there is an endpoint.

It compares what the store wants with what lives, twice a second: starts what is down, stops what is no longer wanted,
and clears away what is being deleted. Whatever survived a predecessor is adopted as it is, since life is a lock on the
service's folder and never a remembered pid. Standard library and SQLite only.

Started by `ensure`, as `python -m penala.workspace.supervisor WORKSPACE LOCK_FD`; the lock comes with it.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from penala.workspace import services, shim
from penala.workspace.services import DELETING, Service
from penala.workspace.store import DeploymentRow, EndpointRow, Store

POLL_S = 0.5
_LONGEST_PAUSE_S = 30.0
_PAUSE_AFTER_FAILURE_S = 5.0
_STEADY_S = 60.0  # a service that has lived this long may fail anew without a pause

log = logging.getLogger("penala.supervisor")


def ensure_if_needed(workspace: Path) -> None:
    """Start the supervisor of a workspace that has endpoints, unless it lives. Costs a look at a folder and a lock."""
    with contextlib.suppress(OSError):
        if any((workspace / "endpoints").iterdir()):
            ensure(workspace)


def ensure(workspace: Path) -> None:
    """Start the supervisor of a workspace, unless it lives."""
    path = workspace / "supervisor.lock"
    if shim.held(path):
        return
    lock = shim.take(path)
    if lock is None:  # somebody else was faster
        return
    try:
        argv = [sys.executable, "-P", "-m", "penala.workspace.supervisor", str(workspace), str(lock)]
        with open(workspace / "supervisor.log", "ab") as output:
            # it forks and returns at once: nobody has to wait for the child that stays
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[lock],
                cwd=workspace,
                # it is nobody's step: whoever ends a step's processes must not take it for one
                env={key: value for key, value in os.environ.items() if key != shim.MARKER},
                start_new_session=True,
                check=True,
            )
    finally:
        os.close(lock)


@dataclass(slots=True)
class _Start:
    """The last start of a service, and how many quick failures led up to it."""

    at: float
    failures: int

    @property
    def pause_s(self) -> float:
        return min(_LONGEST_PAUSE_S, POLL_S * 2.0**self.failures)


class Supervisor:
    """Brings what runs in line with the store of one workspace."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._store = Store(workspace / "penala.db")
        self._starts: dict[Path, _Start] = {}
        self._shims: list[subprocess.Popen[bytes]] = []

    def reconcile(self) -> bool:
        """Do what is to be done now; return False when there is no endpoint left."""
        self._shims = [process for process in self._shims if process.poll() is None]
        endpoints = self._store.find(EndpointRow)
        for endpoint in endpoints:
            try:
                self._tend(endpoint, self._store.find(DeploymentRow, endpoint=endpoint.name))
            except OSError:  # a full disk, say: the other endpoints are tended all the same
                log.exception("endpoint %s", endpoint.name)
        return bool(endpoints)

    def close(self) -> None:
        """Close the store; the services stay."""
        self._store.close()

    def _tend(self, endpoint: EndpointRow, deployments: list[DeploymentRow]) -> None:
        folder = services.endpoint_folder(self._workspace, endpoint.name)
        wanted: list[Service] = []
        if endpoint.state != DELETING:
            if services.routes_are_old(self._workspace, endpoint, deployments):
                services.sync_routes(self._workspace, self._store, endpoint.name)
            wanted.append(services.gateway(self._workspace, endpoint))
            for row in deployments:
                wanted += services.instances(self._workspace, row) if row.state != DELETING else []
        for service in wanted:
            self._start_if_down(service)
        if endpoint.state == "Creating" and services.is_ready(folder / "gateway"):
            self._store.update(EndpointRow, {"name": endpoint.name, "state": "Creating"}, state="Succeeded")
        self._stop_others(folder, {service.folder for service in wanted})
        if endpoint.state == DELETING:
            self._remove_endpoint(endpoint, folder)
            return
        for row in deployments:
            if row.state == DELETING:
                self._remove_deployment(row, folder)

    def _start_if_down(self, service: Service) -> None:
        if shim.alive(service.folder):
            return
        ended = shim.read_exit(service.folder)
        if ended is not None and not service.keep:
            return  # it failed, and whoever waits for it says so
        last = self._starts.get(service.folder)
        now = time.monotonic()
        failures = 0 if last is None or now - last.at > _STEADY_S else last.failures + 1
        if last is not None and now < last.at + last.pause_s:
            return
        if ended is None and (service.folder / "pid.json").exists():
            shim.kill_leftovers(service.folder)  # its shim was killed
        why = "" if ended is None else f" after it ended with {ended['rc']}"
        log.info("starting %s%s", service.folder, why)
        self._starts[service.folder] = _Start(now, failures)
        self._shims.append(services.start(service))

    def _stop_others(self, folder: Path, wanted: set[Path]) -> None:
        for other in services.service_folders(folder):
            if other not in wanted and shim.alive(other) and not (other / "stop").exists():
                log.info("stopping %s", other)
                shim.stop(other)

    def _remove_endpoint(self, endpoint: EndpointRow, folder: Path) -> None:
        if any(shim.alive(other) for other in services.service_folders(folder)):
            return
        log.info("removing endpoint %s", endpoint.name)
        if folder.exists():
            shutil.rmtree(folder)
        with self._store.transaction():
            self._store.delete(DeploymentRow, endpoint=endpoint.name)
            self._store.delete(EndpointRow, name=endpoint.name)

    def _remove_deployment(self, row: DeploymentRow, folder: Path) -> None:
        if any(shim.alive(other) for other in services.service_folders(folder, row.name)):
            return
        log.info("removing deployment %s of %s", row.name, row.endpoint)
        shutil.rmtree(folder / "deployments" / row.name, ignore_errors=True)
        self._store.delete(DeploymentRow, endpoint=row.endpoint, name=row.name)


def _supervise(workspace: Path) -> None:
    """Reconcile until no endpoint is left or the workspace is gone."""
    supervisor = Supervisor(workspace)
    busy = True
    while busy and (workspace / "penala.db").exists():
        try:
            busy = supervisor.reconcile()
            pause = POLL_S
        except Exception:  # a locked store, say: the endpoints must not go unwatched for it
            log.exception("this round failed")
            pause = _PAUSE_AFTER_FAILURE_S
        if busy:
            time.sleep(pause)
    supervisor.close()


def main(workspace: Path, lock: int) -> None:
    """Supervise a workspace as the holder of its lock, detached from whoever started it."""
    if os.fork() > 0:
        os._exit(0)
    os.set_inheritable(lock, False)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    held: int | None = lock
    while held is not None:
        _supervise(workspace)
        os.close(held)
        # An endpoint made just before the lock went free was not ours to see, and its maker saw us alive
        held = shim.take(workspace / "supervisor.lock") if _has_endpoints(workspace) else None


def _has_endpoints(workspace: Path) -> bool:
    if not (workspace / "penala.db").exists():
        return False
    with Store(workspace / "penala.db") as store:
        return bool(store.find(EndpointRow, limit=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
