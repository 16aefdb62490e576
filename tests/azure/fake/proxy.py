"""A proxy on loopback that answers every host itself. What nobody wrote an answer for gets 501 and is remembered."""

import json
import re
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from fake_azure.authority import Authority

PIECE = 1 << 16


@dataclass(slots=True)
class Call:
    """One request as it came in; `status` is what it got, 0 where the connection was cut."""

    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    status: int = 0

    @property
    def where(self) -> str:
        """Host and path."""
        return self.host + self.path

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.method} {self.where}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets: bytes as they are, anything else as JSON, None as no body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error as Azure writes it."""
    return Answer(status, {"error": {"code": code, "message": message}}, headers or {})


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next `times` requests of a method whose host and path hold a pattern."""

    method: str
    pattern: str
    answer: Answer | None  # None: the connection is cut after `after` bytes of the body
    times: int
    after: int = 0


Handler = Callable[..., Any]


class Proxy:
    """Serves the routes (method, pattern of host and path, handler) to whoever uses `environment`."""

    def __init__(self, folder: Path, routes: list[tuple[str, str, Handler]]) -> None:
        self.authority = Authority(folder)
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self._routes = [(method, re.compile(pattern, re.IGNORECASE), handler) for method, pattern, handler in routes]
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.proxy = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a client here and make it trust the answers."""
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), address)
        hosts = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        trust = {name: str(self.authority.bundle) for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
        return proxies | hosts | trust

    def fail(
        self, method: str, pattern: str, status: int, *, code: str = "Injected", headers: Any = None, times: int = 1
    ) -> None:
        """Answer the next `times` fitting requests with an error."""
        answer = refusal(status, code, f"injected {status}", headers)
        self.faults.append(Fault(method, pattern, answer, times))

    def cut(self, method: str, pattern: str, *, after: int, times: int = 1) -> None:
        """Cut the next `times` fitting requests after so many bytes of their body."""
        self.faults.append(Fault(method, pattern, None, times, after))

    def fault_for(self, call: Call) -> Fault | None:
        """Return the fault that this request meets, and use it up by one."""
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.method == call.method and re.search(fault.pattern, call.where, re.IGNORECASE):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, call: Call) -> Answer:
        """Return what the routes say; 501 where none fits, 500 where one breaks."""
        for method, pattern, handler in self._routes:
            if method == call.method and (match := pattern.fullmatch(call.where)):
                try:
                    with self._lock:
                        given = handler(call, **match.groupdict())
                except Exception as error:  # a fault of the fake's own must be seen, never hang the client
                    return refusal(501, "FakeIsBroken", repr(error))
                return given if isinstance(given, Answer) else Answer(200, given)
        return refusal(501, "NotFaked", f"{call.method} {call.where}")

    def sent(self, method: str, pattern: str) -> list[Call]:
        """Return the requests of a method whose host and path hold a pattern."""
        return [call for call in self.calls if call.method == method and re.search(pattern, call.where, re.IGNORECASE)]

    @property
    def unknown(self) -> list[str]:
        """The requests that nothing answers."""
        return [str(call) for call in self.calls if call.status == 501]


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    proxy: Proxy


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    host = ""

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        context = self.server.proxy.authority.context(self.host)
        try:
            self.connection = context.wrap_socket(self.connection, server_side=True)
        except OSError:  # a client that does not trust us, or has gone
            self.close_connection = True
            return
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def _any(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = self.host or url.hostname or ""
        call = Call(self.command, host, unquote(url.path), dict(parse_qsl(url.query)), headers)
        proxy = self.server.proxy
        proxy.calls.append(call)
        fault = proxy.fault_for(call)
        if fault is not None and fault.answer is None:
            self.rfile.read(fault.after)
            self.close_connection = True
            return
        call.body = self._body(headers)
        answer = proxy.answer(call) if fault is None else fault.answer
        assert answer is not None
        call.status = answer.status
        self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else b""
        if answer.body is not None and not isinstance(answer.body, bytes):
            body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "x-ms-request-id": "fake", "Content-Length": str(len(body))}
        for name, value in (headers | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # TLS has taken the socket over from the server

    def log_message(self, *_: object) -> None:
        """Say nothing."""
