"""What an endpoint answers when it does not answer: one JSON shape for every route.

`{"error": {"code", "message", "type", "param"}}`. The first two are Azure ML's (azure-ai-ml reads `error.message` and
fails without it), the last two are OpenAI's.
"""

import http
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from penala.errors import EndpointError

log = logging.getLogger(__name__)


class Refusal(EndpointError):
    """A request that is answered with a status of 400 or above; `param` is the field of the body at fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code or http.HTTPStatus(status).phrase.title().replace(" ", "")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.status, self.what), {"param": self.param, "code": self.code})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"code": self.code, "message": self.what, "type": kind, "param": self.param}}

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """Return the answer."""
        return json_response(self.body, self.status, headers)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    if error.status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer for a route or a method that is not there, in our shape."""
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response(error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    """Answer for a client that hung up before its body was sent: nobody reads it, and the log needs no traceback."""
    return Refusal(499, "the client is gone", code="ClientClosedRequest").response()


async def _unexpected(request: Request, error: Exception) -> Response:
    return Refusal(500, "an unexpected error; its traceback is in the log").response()


EXCEPTION_HANDLERS = {
    Refusal: _refused,
    HTTPException: _http_error,
    ClientDisconnect: _gone,
    Exception: _unexpected,
}
"""How an application answers for what its routes raise."""
