"""The door of one endpoint: a process on loopback TCP that asks for the key and passes requests to deployments.

Started as `python -m penala.endpoint.gateway --port N --ready FILE` in the endpoint's folder, where it reads

    keys.json     the two keys (`penala.endpoint.keys`)
    routes.json   {"endpoint", "traffic": {deployment: per cent}, "deployments": {deployment: socket path}}

anew whenever they change. Without a key only GET and HEAD of `/`, `/healthz` and `/readyz` are answered; the key is
asked for before the body is read. `azureml-model-deployment` picks a deployment past the split.

An answer of the model goes through as it is, errors included: the body that says which field is wrong is what a person
at this machine needs. Azure ML's gateway would turn such a status into 424 and move the real one into the headers
`ms-azureml-model-error-statuscode` and `-reason`; those are set here too.
"""

import argparse
import json
import logging
import random
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penala.endpoint.disconnects import unless_gone
from penala.endpoint.keys import bearer_is_one_of, read_keys
from penala.endpoint.refusals import EXCEPTION_HANDLERS, Refusal, json_response
from penala.endpoint.servers import listen_on_port, log_to_stderr, run
from penala.endpoint.traffic import choose
from penala.errors import EndpointError, near

MAX_BODY_BYTES = 8 << 20
OPEN_PATHS = ("/", "/healthz", "/readyz")
DEPLOYMENT_HEADER = "azureml-model-deployment"
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
# They speak of one connection, not of the message (RFC 9110, section 7.6.1), or are set anew on the next one
_OF_THE_CONNECTION = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_NOT_ASKED_ON = _OF_THE_CONNECTION | {"host", "authorization", "content-length"}
_NOT_ANSWERED_ON = _OF_THE_CONNECTION | {"date", "server"}

log = logging.getLogger(__name__)

Connect = Callable[[str], httpx.AsyncBaseTransport]


def unix_socket(path: str) -> httpx.AsyncBaseTransport:
    """Return the transport to a deployment. No connection is kept: a new one costs microseconds and is never stale."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(uds=path, verify=False, limits=limits)


class WatchedFile:
    """A JSON file, parsed again when it was replaced; a look costs microseconds."""

    def __init__(self, path: Path, parse: Callable[[Path], Any]) -> None:
        self._path = path
        self._parse = parse
        self._stamp: tuple[int, int] | None = None
        self._value: Any = None

    def read(self) -> Any:
        """Return what the file holds now."""
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._value, self._stamp = self._parse(self._path), stamp
        return self._value


@dataclass(frozen=True, slots=True)
class Routes:
    """Which deployments there are and how the traffic is split."""

    endpoint: str
    traffic: Mapping[str, int]
    deployments: Mapping[str, str]

    @classmethod
    def load(cls, path: Path) -> "Routes":
        """Read routes.json."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def pick(self, asked_for: str | None) -> str:
        """Return the deployment for a request: the one asked for, else one by the split. Raises Refusal (404)."""
        if asked_for is not None:
            if asked_for in self.deployments:
                return asked_for
            fix = near(asked_for, self.deployments) or f"there are {', '.join(sorted(self.deployments)) or 'none'}"
            raise Refusal(404, f"endpoint '{self.endpoint}' has no deployment '{asked_for}'; {fix}")
        name = choose(
            {name: share for name, share in self.traffic.items() if name in self.deployments}, random.random()
        )
        if name is None:
            fix = f"give one traffic, or name one in the header {DEPLOYMENT_HEADER}"
            raise Refusal(404, f"no deployment of endpoint '{self.endpoint}' has traffic; {fix}")
        return name


class Gateway:
    """Passes requests on; `folder` is the endpoint's, `connect` opens the way to a deployment's socket."""

    def __init__(self, folder: Path, connect: Connect) -> None:
        self._routes = WatchedFile(folder / "routes.json", Routes.load)
        self._connect = connect
        self._clients: dict[str, httpx.AsyncClient] = {}

    @property
    def routes(self) -> Routes:
        """The routes as they are now."""
        routes = self._routes.read()
        assert isinstance(routes, Routes)
        return routes

    async def healthy(self, request: Request) -> Response:
        """Say that the gateway lives."""
        return json_response({"status": "healthy", "endpoint": self.routes.endpoint})

    async def ready(self, request: Request) -> Response:
        """Say whether every deployment with traffic answers."""
        routes = self.routes
        waiting = [name for name in routes.traffic if not await self._answers(routes.deployments.get(name))]
        if waiting or not routes.traffic:
            what = f"not answering: {', '.join(waiting)}" if waiting else "no deployment has traffic"
            return Refusal(503, what).response()
        return json_response({"status": "ready", "endpoint": routes.endpoint})

    async def _answers(self, socket: str | None) -> bool:
        try:
            return (
                socket is not None
                and (await self._client(socket).get("http://deployment/readyz", timeout=2.0)).is_success
            )
        except httpx.TransportError:
            return False

    async def forward(self, request: Request) -> Response:
        """Pass a request to its deployment and the answer back, streams piece by piece."""
        body = await _read_body(request)
        name = self.routes.pick(request.headers.get(DEPLOYMENT_HEADER))
        answer = await unless_gone(request, self._send(request, body, name))
        headers = {key: value for key, value in answer.headers.items() if key not in _NOT_ANSWERED_ON}
        headers[DEPLOYMENT_HEADER] = name
        if answer.status_code >= 400:
            headers["ms-azureml-model-error-statuscode"] = str(answer.status_code)
            headers["ms-azureml-model-error-reason"] = answer.reason_phrase
        return _Relay(answer, headers)

    async def _send(self, request: Request, body: bytes, name: str) -> httpx.Response:
        tried = None
        while True:
            socket = self.routes.deployments.get(name)
            if socket is None or socket == tried:
                what = f"deployment '{name}' does not answer: it is starting or was stopped; try again in a few seconds"
                raise Refusal(503, what)
            client = self._client(socket)
            path, query = request.url.path, request.url.query.encode()
            url = httpx.URL(scheme="http", host="deployment", path=path, query=query)
            headers = [(key, value) for key, value in request.headers.items() if key not in _NOT_ASKED_ON]
            asked = client.build_request(request.method, url, headers=headers, content=body)
            try:
                return await client.send(asked, stream=True)
            except httpx.TransportError as error:
                # a new instance may have taken the name between the look at the routes and the connection
                log.warning("deployment '%s' at %s: %r", name, socket, error)
                tried = socket

    def _client(self, socket: str) -> httpx.AsyncClient:
        if socket not in self._clients:
            known = set(self.routes.deployments.values())
            self._clients = {path: client for path, client in self._clients.items() if path in known}
            timeout = httpx.Timeout(None, connect=5.0)  # the deployment keeps the request's own time
            transport = self._connect(socket)
            self._clients[socket] = httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)
        return self._clients[socket]


class _Relay(StreamingResponse):
    """Passes a deployment's answer through, byte for byte, and hangs up on the deployment when the client does."""

    def __init__(self, answer: httpx.Response, headers: Mapping[str, str]) -> None:
        super().__init__(answer.aiter_raw(), answer.status_code, headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


class Door:
    """Outermost: asks for the key, marks answers with a request id. Nothing behind it is reached without a key."""

    def __init__(self, app: ASGIApp, keys: Path) -> None:
        self._app = app
        self._keys = WatchedFile(keys, read_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        assert scope["type"] == "http", scope["type"]  # the server speaks no websockets
        headers = dict(scope["headers"])  # names are lower case; of a repeated one the last counts
        marks = {"x-request-id": str(uuid.uuid4())}
        client_id = headers.get(b"x-ms-client-request-id", b"").decode("latin-1")
        if _CLIENT_REQUEST_ID.fullmatch(client_id):
            marks["x-ms-client-request-id"] = client_id
        kept = [header for header in scope["headers"] if header[0] != b"x-request-id"]
        scope["headers"] = [*kept, (b"x-request-id", marks["x-request-id"].encode())]

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(marks)
            await send(message)

        is_open = scope["path"] in OPEN_PATHS and scope["method"] in ("GET", "HEAD")
        if is_open or bearer_is_one_of(headers.get(b"authorization", b""), self._known_keys()):
            return await self._app(scope, receive, marked)
        what = "the key is missing or wrong; send 'Authorization: Bearer KEY', see `penala endpoints keys`"
        refused = Refusal(401, what, code="Unauthorized")
        await refused.response({"www-authenticate": "Bearer"})(scope, receive, marked)

    def _known_keys(self) -> Mapping[str, str]:
        try:
            keys: Mapping[str, str] = self._keys.read()
        except (OSError, EndpointError):  # the endpoint is being deleted: nobody gets in
            return {}
        return keys


def gateway_app(folder: Path, connect: Connect = unix_socket) -> ASGIApp:
    """Return the application of one endpoint, whose keys and routes lie in `folder`."""
    gateway = Gateway(folder, connect)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    routes = [
        Route("/", gateway.healthy),
        Route("/healthz", gateway.healthy),
        Route("/readyz", gateway.ready),
        Route("/{path:path}", gateway.forward, methods=methods),
    ]
    return Door(Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS), folder / "keys.json")


async def _read_body(request: Request) -> bytes:
    """Read the body up to the limit; raise Refusal (413) beyond it."""
    refusal = Refusal(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise refusal
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise refusal
    return bytes(body)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the endpoint whose folder is the working folder until SIGTERM. Exits with 1 when the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m penala.endpoint.gateway", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready", type=Path, required=True, help="file to make when requests are taken")
    arguments = parser.parse_args(argv)
    log_to_stderr()
    try:
        listener = listen_on_port(arguments.port)
    except EndpointError as error:
        log.error("%s", error)
        sys.exit(1)
    run(gateway_app(Path()), listener, arguments.ready)


if __name__ == "__main__":
    main()
