"""The `/score` contract of Azure ML's chat models: what is asked for and what is answered.

    {"input_data": {"input_string": CONVERSATION or [CONVERSATION, ...], "parameters": {...}}, "params": {...}}

A conversation is a list of messages. One, flat or nested, is answered with {"output": TEXT}; several with
{"output": [TEXT, ...]}. Azure's own servers answer 200 with an empty object when something is wrong, or with the first
reply only; here a wrong body is a 400 that says what to change. Top-level names that are not known are ignored, as
Azure's server does, unless they look like a slip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penala.conversations.conversation import Message
from penala.endpoint import fields
from penala.endpoint.refusals import Refusal
from penala.errors import UsageError, near

PARAMETERS = (
    "temperature",
    "top_p",
    "do_sample",
    "max_new_tokens",
    "max_gen_len",  # Azure's alias of max_new_tokens
    "return_full_text",
    "seed",
    "stop",
)
_MOST_CONVERSATIONS = 256
_SHAPE = '{"input_data": {"input_string": [{"role": "user", "content": "..."}], "parameters": {}}}'


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """The conversations of one `/score` body, and how to reply to them."""

    conversations: tuple[tuple[Message, ...], ...]
    sampling: fields.Sampling
    return_full_text: bool


def parse_score(body: bytes) -> ScoreRequest:
    """Read a `/score` body; raise Refusal (400) for the first fault in it."""
    document = fields.read_object(body)
    for name in document:
        if name not in ("input_data", "params") and (fix := near(name, ("input_data", "params"))):
            raise Refusal(400, f"the body has an unknown name '{name}'; {fix}", param=name)
    data = document.get("input_data")
    if data is None:
        what = f"A value is not provided for the 'input_data' parameter; send {_SHAPE}"
        raise Refusal(400, what, param="input_data")
    if not isinstance(data, dict) or "input_string" not in data:
        raise Refusal(400, f"input_data must be an object with input_string; send {_SHAPE}", param="input_data")
    fields.refuse_unknown(data, ("input_string", "parameters"), "input_data")
    parameters = _parameters(data.get("parameters"), document.get("params"))
    return ScoreRequest(_conversations(data["input_string"]), *_settings(parameters))


def score_reply(texts: Sequence[str]) -> dict[str, Any]:
    """Return the answer to a `/score` body with as many conversations."""
    return {"output": texts[0] if len(texts) == 1 else list(texts)}


def as_score_body(document: Any) -> dict[str, Any]:
    """Turn what a person may keep in a file into a `/score` body.

    Takes a `/score` body (returned as it is), {"messages": [...]} or a bare list of messages. Raises UsageError for
    anything else. Whether the messages are right is for the endpoint to say.
    """
    if isinstance(document, dict) and "input_data" in document:
        return document
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list):
        raise UsageError("this is no request", fix=f'send {_SHAPE}, {{"messages": [...]}} or a bare list of messages')
    return {"input_data": {"input_string": messages, "parameters": {}}, "params": {}}


def _conversations(value: Any) -> tuple[tuple[Message, ...], ...]:
    path = "input_data.input_string"
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        return (fields.read_messages(value, path),)
    if len(value) > _MOST_CONVERSATIONS:
        raise Refusal(400, f"{path} has {len(value)} conversations, at most {_MOST_CONVERSATIONS} go in one request")
    return tuple(fields.read_messages(item, f"{path}[{index}]") for index, item in enumerate(value))


def _parameters(inner: Any, outer: Any) -> dict[str, Any]:
    """Join input_data.parameters and params, which mean the same."""
    for name, value in (("input_data.parameters", inner), ("params", outer)):
        if value is not None and not isinstance(value, dict):
            raise Refusal(400, f"{name} must be an object", param=name)
        fields.refuse_unknown(value or (), PARAMETERS, name)
    inner, outer = inner or {}, outer or {}
    for name in inner:
        if name in outer and outer[name] != inner[name]:
            raise Refusal(400, f"{name} has two values, in input_data.parameters and in params", param=name)
    return {**inner, **outer}


def _settings(parameters: Mapping[str, Any]) -> tuple[fields.Sampling, bool]:
    longest = fields.integer(parameters, "max_new_tokens", 1)
    alias = fields.integer(parameters, "max_gen_len", 1)
    if longest is not None and alias is not None and longest != alias:
        raise Refusal(400, "max_new_tokens and its alias max_gen_len differ", param="max_gen_len")
    top_p = fields.number(parameters, "top_p", 0.0, 1.0)
    temperature = fields.number(parameters, "temperature", 0.0, 100.0)
    sampling = fields.Sampling(
        max_new_tokens=longest if longest is not None else alias,
        temperature=fields.temperature_of(temperature, top_p, fields.boolean(parameters, "do_sample")),
        top_p=1.0 if top_p is None else top_p,
        seed=fields.integer(parameters, "seed", -(2**63), 2**63 - 1),
        stop=fields.stop_texts(parameters),
    )
    return sampling, fields.boolean(parameters, "return_full_text") or False
