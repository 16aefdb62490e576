"""Endpoints and their deployments, as Python and the command line see them.

These verbs change what the store wants, and wait until the supervisor has brought it about; it alone starts and stops
processes. So a verb that is killed leaves nothing half done that the same verb, called again, would not finish.
"""

import contextlib
import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import EndpointError, NotFound, UsageError, near
from penala.workspace import services
from penala.workspace.rollout import Report, await_ready, look_again, roll_out
from penala.workspace.services import DELETING
from penala.workspace.store import DeploymentRow, EndpointRow, ModelRow
from penala.workspace.supervisor import ensure

if TYPE_CHECKING:
    import httpx

    from penala.workspace.client import Workspace

Rows = list[dict[str, Any]]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]")  # Azure ML's rule
_PORTS = range(20_000, 30_000)  # below those that the kernel gives to outgoing connections (32,768 on Linux)
_STOP_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0  # for an endpoint whose process was just killed
_REQUEST_SETTINGS = {
    "request_timeout_ms": 120_000,
    "max_concurrent_requests_per_instance": 16,
    "max_queue_wait_ms": 60_000,
}


class Endpoints:
    """The endpoints of one workspace."""

    def __init__(self, workspace: "Workspace") -> None:
        self._folder = workspace.folder
        self._store = workspace.store
        self._workspace = workspace

    # -- looking --

    def list(self) -> Rows:
        """Return what `show` returns, of every endpoint."""
        return [self._shown(row) for row in self._store.find(EndpointRow, order="name")]

    def show(self, name: str) -> dict[str, Any]:
        """Return an endpoint's name, scoring_uri, openai_base_url, provisioning_state and traffic (0 included)."""
        return self._shown(self._endpoint(name))

    def keys(self, name: str) -> dict[str, str]:
        """Return primary_key and secondary_key."""
        from penala.endpoint.keys import read_keys

        self._endpoint(name)
        return read_keys(self._keys_file(name))

    def deployments(self, name: str) -> Rows:
        """Return an endpoint's deployments: name, model, version, provisioning_state, traffic, request_settings."""
        row = self._endpoint(name)
        return [_deployment_shown(row, found) for found in self._store.find(DeploymentRow, endpoint=name, order="name")]

    def logs(self, name: str, deployment: str, lines: int = 50) -> str:
        """Return the last lines of a deployment's newest log."""
        self._deployment(name, deployment)
        folders = services.service_folders(services.endpoint_folder(self._folder, name), deployment)
        newest = max(folders, key=lambda folder: int(folder.name), default=None)
        return "" if newest is None else "\n".join(services.last_lines(newest, lines))

    # -- changing --

    def create(self, name: str, *, port: int | None = None) -> dict[str, Any]:
        """Make an endpoint with fresh keys, or find it as it is, and wait until it answers; return what `show` does.

        Raises EndpointError for a name that Azure ML would not take and for a port that is taken.
        """
        self._create_row(name, port)
        gateway = services.endpoint_folder(self._folder, name) / "gateway"
        await_ready(self._folder, gateway, f"the gateway of endpoint '{name}'")
        self._store.update(EndpointRow, {"name": name, "state": "Creating"}, state="Succeeded")
        return self.show(name)

    def deploy(
        self,
        name: str,
        deployment: str,
        model: str,
        version: str,
        *,
        request_settings: Mapping[str, int] | None = None,
        port: int | None = None,
        all_traffic: bool = True,
        report: Report | None = None,
    ) -> dict[str, Any]:
        """Put a model version behind an endpoint, made if it is missing; give it all the traffic, unless told not to.

        A deployment of that name goes on answering until the new one is ready, and stays when the new one fails.
        Returns what `show` does. Raises NotFound for a model version that is not registered, EndpointError with the
        last lines of the log when the deployment ends while it starts.
        """
        say = report or (lambda event: None)
        _check_name(deployment, "deployment")
        wanted = {
            "model": model,
            "version": version,
            "folder": str(self._model_folder(model, version)),
            "request_settings": _checked_settings(request_settings or {}),
        }
        self._create_row(name, port)  # its gateway starts beside the deployment
        row = self._store.get(DeploymentRow, endpoint=name, name=deployment)
        if row is not None and row.state == DELETING:
            self._until_deployment_is_gone(name, deployment)
        roll_out(self._folder, self._store, name, deployment, wanted, say)
        self.create(name, port=port)
        if all_traffic:
            self.set_traffic(name, {deployment: 100})
            text = f"endpoint '{name}' sends all requests to '{deployment}' ({model}:{version})"
            say({"event": "note", "text": text})
        return self.show(name)

    def set_traffic(self, name: str, traffic: Mapping[str, int]) -> dict[str, Any]:
        """Split the requests over deployments, in per cent that add up to 100, or to 0; return what `show` does.

        The old split stays when the new one is refused (EndpointError).
        """
        from penala.endpoint.traffic import check_traffic

        with self._store.transaction():
            self._endpoint(name)
            found = self._store.find(DeploymentRow, endpoint=name)
            serving = {row.name for row in found if row.settings.get("serving") and row.state != DELETING}
            self._store.update(EndpointRow, {"name": name}, traffic=check_traffic(traffic, serving))
            services.sync_routes(self._folder, self._store, name)
        return self.show(name)

    def regenerate_key(self, name: str, which: str = "primary") -> dict[str, str]:
        """Replace one key; the other goes on working. Returns both."""
        from penala.endpoint.keys import new_key, write_keys

        if which not in ("primary", "secondary"):
            raise UsageError(f"there is no {which} key", fix="choose primary or secondary")
        with self._store.transaction():  # one at a time, so that none brings back what another one replaced
            keys = {**self.keys(name), f"{which}_key": new_key()}
            write_keys(self._keys_file(name), keys)
        return keys

    def delete_deployment(self, name: str, deployment: str) -> None:
        """Stop a deployment that has no traffic and remove it, logs included."""
        with self._store.transaction():
            row = self._deployment(name, deployment)
            if percent := self._endpoint(name).traffic.get(deployment, 0):
                fix = "send its traffic elsewhere first"
                raise EndpointError(f"deployment '{deployment}' has {percent} % of the traffic of '{name}'", fix=fix)
            self._store.update(DeploymentRow, {"endpoint": name, "name": row.name}, state=DELETING)
            services.sync_routes(self._folder, self._store, name)
        self._until_deployment_is_gone(name, deployment)

    def delete(self, name: str) -> None:
        """Remove an endpoint: its keys first, then its processes, its port, its files and its rows."""
        from penala.endpoint.keys import destroy_keys

        self._endpoint(name)
        destroy_keys(self._keys_file(name))  # from here on nobody gets in
        self._store.update(EndpointRow, {"name": name}, state=DELETING)
        self._until_gone(f"endpoint '{name}'", lambda: self._store.get(EndpointRow, name=name))

    # -- asking --

    def invoke(self, name: str, document: Any, *, deployment: str | None = None) -> Any:
        """Send a request to `/score` and return its JSON.

        `document` is a `/score` body, {"messages": [...]} or a bare list of messages. Raises EndpointError with what
        the endpoint answers.
        """
        from penala.endpoint.scoring import as_score_body

        with self._client(name) as client:
            return self._ask(client, name, "/score", as_score_body(document), deployment=deployment).json()

    def chat(self, name: str, messages: Sequence[Mapping[str, Any]], **settings: Any) -> Iterator[str]:
        """Send a conversation and yield the reply's text as it comes; `settings` are OpenAI's (temperature, ...).

        Raises EndpointError with what the endpoint answers, and when it breaks off.
        """
        import httpx

        body = {"messages": list(messages), "stream": True, **settings}
        with (
            self._client(name) as client,
            contextlib.closing(self._ask(client, name, "/v1/chat/completions", body, stream=True)) as answer,
        ):
            try:
                for event in streamed_events(answer.iter_text()):
                    if "error" in event:
                        raise EndpointError(event["error"]["message"], where=f"endpoint '{name}'")
                    yield from (choice["delta"].get("content", "") for choice in event["choices"])
            except httpx.TransportError as error:
                raise EndpointError(f"broke off: {error}", where=f"endpoint '{name}'", fix="ask again") from error

    def _client(self, name: str) -> "httpx.Client":
        import httpx

        ensure(self._folder)
        # the endpoint keeps the time of a request, and no proxy of the environment lies between
        return httpx.Client(base_url=_base(self._endpoint(name).port), timeout=None, trust_env=False)

    def _ask(
        self,
        client: "httpx.Client",
        name: str,
        path: str,
        body: Any,
        *,
        deployment: str | None = None,
        stream: bool = False,
    ) -> "httpx.Response":
        """Send a request and return its answer, to be closed where it streams; a process just killed is waited for."""
        import httpx

        picked = {} if deployment is None else {"azureml-model-deployment": deployment}
        headers = {"Authorization": f"Bearer {self.keys(name)['primary_key']}", "Content-Type": "application/json"}
        content = json.dumps(body).encode()  # what is no JSON in it is for the endpoint to refuse
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        while True:
            asked = client.build_request("POST", path, content=content, headers=headers | picked)
            try:
                answer = client.send(asked, stream=stream)
            except httpx.TransportError as error:
                failure = EndpointError(f"does not answer: {error}", where=f"endpoint '{name}'")
            else:
                if answer.is_success:
                    return answer
                failure = _refused(name, answer.status_code, answer.read())
                if answer.status_code != 503:  # 503: its deployment is being started again
                    raise failure
            look_again(self._folder, deadline, failure.what, services.endpoint_folder(self._folder, name))

    # -- the steps of a deployment --

    def _create_row(self, name: str, port: int | None) -> None:
        _check_name(name, "endpoint")
        row = self._store.get(EndpointRow, name=name)
        if row is not None and row.state == DELETING:
            self.delete(name)  # goes on where that was interrupted
            row = None
        row = row or self._new_row(name, port)
        if port not in (None, row.port):
            what = f"endpoint '{name}' answers on port {row.port}, which it keeps"
            raise EndpointError(what, fix=f"leave port out, or delete the endpoint to have it on {port}")

    def _new_row(self, name: str, port: int | None) -> EndpointRow:
        """Make the row of an endpoint, with fresh keys, or find it where another process was faster."""
        from penala.endpoint.keys import new_key, write_keys

        with self._store.transaction():
            if (made := self._store.get(EndpointRow, name=name)) is not None:
                return made
            taken = {other.port for other in self._store.find(EndpointRow)}
            chosen = _free_port(f"{self._folder}/{name}", taken) if port is None else _checked_port(port)
            row = EndpointRow(name, chosen, "Creating")
            services.endpoint_folder(self._folder, name).mkdir(parents=True, exist_ok=True)
            write_keys(self._keys_file(name), {"primary_key": new_key(), "secondary_key": new_key()})
            self._store.insert(row)
            services.sync_routes(self._folder, self._store, name)
        return row

    def _model_folder(self, model: str, version: str) -> Path:
        """Return the plain model folder of a registered version."""
        row = self._store.get(ModelRow, name=model, version=version)
        if row is None:
            known = [f"{found.name}:{found.version}" for found in self._store.find(ModelRow)]
            fix = near(f"{model}:{version}", known) or "see `penala models list`"
            raise NotFound(f"no model {model}:{version} is registered", fix=fix)
        folder = self._folder / row.path
        if (folder / "MLmodel").is_file():
            from penala.package.read import read_package

            folder = read_package(folder).model_folder
        if not (folder / "config.json").is_file():
            raise EndpointError("holds no model", where=str(folder), fix=f"register {model}:{version} again")
        return folder

    # -- small things --

    def _endpoint(self, name: str) -> EndpointRow:
        row = self._store.get(EndpointRow, name=name)
        if row is None:
            known = [found.name for found in self._store.find(EndpointRow)]
            fix = near(name, known) or (f"there are {', '.join(known)}" if known else "there is none yet")
            raise NotFound(f"there is no endpoint '{name}'", fix=fix)
        return row

    def _deployment(self, name: str, deployment: str) -> DeploymentRow:
        self._endpoint(name)
        row = self._store.get(DeploymentRow, endpoint=name, name=deployment)
        if row is None:
            known = [found.name for found in self._store.find(DeploymentRow, endpoint=name)]
            fix = near(deployment, known) or (f"there are {', '.join(known)}" if known else "there is none yet")
            raise NotFound(f"endpoint '{name}' has no deployment '{deployment}'", fix=fix)
        return row

    def _shown(self, row: EndpointRow) -> dict[str, Any]:
        names = [found.name for found in self._store.find(DeploymentRow, endpoint=row.name, order="name")]
        return {
            "name": row.name,
            "scoring_uri": f"{_base(row.port)}/score",
            "openai_base_url": f"{_base(row.port)}/v1",
            "provisioning_state": row.state,
            "traffic": {name: row.traffic.get(name, 0) for name in names},
        }

    def _keys_file(self, name: str) -> Path:
        return services.endpoint_folder(self._folder, name) / "keys.json"

    def _until_deployment_is_gone(self, name: str, deployment: str) -> None:
        def row() -> DeploymentRow | None:
            return self._store.get(DeploymentRow, endpoint=name, name=deployment)

        self._until_gone(f"deployment '{deployment}' of endpoint '{name}'", row)

    def _until_gone(self, what: str, exists: Callable[[], object]) -> None:
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while exists():
            look_again(self._folder, deadline, f"{what} is not gone", self._folder / "supervisor.log")


def streamed_events(parts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON of server-sent events that come in parts of text; [DONE] is none.

    A line ends in \\n alone: httpx's iter_lines also cuts at U+2028 and U+0085, which JSON text may hold.
    """
    left = ""
    for part in parts:
        *lines, left = (left + part).split("\n")
        yield from (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {"))


def _base(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _deployment_shown(endpoint: EndpointRow, row: DeploymentRow) -> dict[str, Any]:
    instance = row.settings.get("serving") or row.settings.get("starting") or {}
    return {
        "name": row.name,
        "endpoint": endpoint.name,
        "model": row.model,
        "version": row.version,
        "provisioning_state": row.state,
        "traffic": endpoint.traffic.get(row.name, 0),
        "request_settings": instance.get("request_settings"),
    }


def _check_name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name):
        fix = "use 3 to 32 letters, digits and '-', a letter first and no '-' last"
        raise EndpointError(f"'{name}' is no {kind} name", fix=fix)


def _checked_settings(given: Mapping[str, int]) -> dict[str, int]:
    for key, value in given.items():
        if key not in _REQUEST_SETTINGS:
            fix = near(key, _REQUEST_SETTINGS) or f"known are {', '.join(_REQUEST_SETTINGS)}"
            raise UsageError(f"request_settings has an unknown name '{key}'", fix=fix)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"request_settings.{key} is {value!r}", fix="give a whole number of at least 1")
    return {**_REQUEST_SETTINGS, **given}


def _checked_port(port: int) -> int:
    if not _is_free(port):
        fix = "stop the program that holds it, choose another, or leave port out"
        raise EndpointError(f"port {port} is busy", fix=fix)
    return port


def _free_port(what_for: str, taken: set[int]) -> int:
    """Return a free port that is not `taken`; the same one for the same purpose, if it can be."""
    first = zlib.crc32(what_for.encode()) % len(_PORTS)
    for offset in range(len(_PORTS)):
        port = _PORTS[(first + offset) % len(_PORTS)]
        if port not in taken and _is_free(port):
            return port
    raise EndpointError(f"no port from {_PORTS[0]} to {_PORTS[-1]} is free", fix="name one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the gateway will
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _refused(name: str, status: int, body: bytes) -> EndpointError:
    """Describe an answer that is no reply, in the endpoint's own words."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode(errors="replace") or "no reason given"
    return EndpointError(f"answered {status}: {message}", where=f"endpoint '{name}'")
