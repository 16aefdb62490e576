"""OpenAI's chat completions, as far as a text model answers them: the official client works unchanged.

An endpoint serves one model, so `model` may be any text or absent; the answer says which model it was. A parameter that
would change the reply and is not supported is a 400; those that only describe the caller are taken and ignored.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from penala.endpoint import fields
from penala.endpoint.disconnects import unless_gone
from penala.endpoint.refusals import Refusal, json_response
from penala.endpoint.replies import Reply
from penala.endpoint.serving import Admission, Asked, Serving

SUPPORTED = (
    "messages",
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "n",
)
# They say who asks or what OpenAI may keep, and change no reply
_ABOUT_THE_CALLER = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})
# How clients say "without it"
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


def openai_routes(serving: Serving) -> list[Route]:
    """Return the routes of OpenAI's API that this deployment answers."""

    async def chat(request: Request) -> Response:
        body = fields.read_object(await request.body())
        messages, sampling = fields.read_messages(body.get("messages"), "messages"), read_sampling(body)
        streams, with_usage = _read_stream(body)
        asked = await serving.ask(messages, sampling)
        if streams:
            return StreamingResponse(_events(serving, asked, with_usage), media_type="text/event-stream")
        reply = await unless_gone(request, serving.reply(asked))
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.text},
            "finish_reason": reply.finish_reason,
            "logprobs": None,
        }
        head = _head(serving.model, "chat.completion")
        return json_response({**head, "choices": [choice], "usage": _usage(reply)})

    model = {"id": serving.model, "object": "model", "created": serving.created, "owned_by": "penala"}

    async def models(request: Request) -> Response:
        return json_response({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        if request.path_params["name"] != serving.model:
            raise Refusal(404, f"the model here is {serving.model}", param="model", code="model_not_found")
        return json_response(model)

    return [
        Route("/v1/chat/completions", chat, methods=["POST"], middleware=[Middleware(Admission, serving=serving)]),
        Route("/v1/models", models),
        Route("/v1/models/{name}", one_model),
    ]


def read_sampling(body: Mapping[str, Any]) -> fields.Sampling:
    """Return how to write the reply; raise Refusal (400) for a parameter that is wrong, unknown or not supported."""
    for name, value in body.items():
        if name in _ABOUT_THE_CALLER or value is None:
            continue
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise Refusal(400, f"{name} is not supported", param=name, code="unsupported_parameter")
        elif name not in SUPPORTED:
            fields.refuse_unknown([name], SUPPORTED, "the request")
    if not isinstance(body.get("model", ""), str | None):
        raise Refusal(400, "model must be a text", param="model")
    if fields.integer(body, "n", 1) not in (None, 1):
        raise Refusal(400, "n must be 1: one reply a request", param="n", code="unsupported_parameter")
    longest = fields.integer(body, "max_completion_tokens", 1)
    older = fields.integer(body, "max_tokens", 1)
    if longest is not None and older is not None and longest != older:
        raise Refusal(400, "max_tokens and max_completion_tokens mean the same and differ", param="max_tokens")
    top_p = fields.number(body, "top_p", 0.0, 1.0)
    return fields.Sampling(
        max_new_tokens=older if longest is None else longest,
        temperature=fields.temperature_of(fields.number(body, "temperature", 0.0, 2.0), top_p, None),
        top_p=1.0 if top_p is None else top_p,
        seed=fields.integer(body, "seed", -(2**63), 2**63 - 1),
        stop=fields.stop_texts(body),
    )


def _read_stream(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return (whether to stream, whether the stream ends with the usage)."""
    streams = fields.boolean(body, "stream") or False
    options = body.get("stream_options")
    if options is None:
        return streams, False
    if not isinstance(options, dict) or not streams:
        raise Refusal(400, "stream_options must be an object, beside stream: true", param="stream_options")
    fields.refuse_unknown(options, ("include_usage",), "stream_options")
    return True, fields.boolean(options, "include_usage") or False


async def _events(serving: Serving, asked: Asked, with_usage: bool) -> AsyncGenerator[bytes, None]:
    """Yield a reply as server-sent events; a failure on the way is an event with `error`, and no [DONE] follows."""
    head = _head(serving.model, "chat.completion.chunk")

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return _event({**head, "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async with aclosing(serving.pieces(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield chunk({"content": piece})
                    continue
                yield chunk({}, piece.finish_reason)
                if with_usage:
                    yield _event({**head, "choices": [], "usage": _usage(piece)})
    except Refusal as refusal:
        yield _event(refusal.body)
        return
    yield b"data: [DONE]\n\n"


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(reply: Reply) -> dict[str, int]:
    total = reply.prompt_tokens + reply.completion_tokens
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": total,
    }
