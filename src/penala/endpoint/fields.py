"""Read what a request body holds, field by field. Every fault is a Refusal with status 400 that names its place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penala.conversations.conversation import Message
from penala.endpoint.refusals import Refusal
from penala.errors import near

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is written; `max_new_tokens` None leaves it to the deployment, temperature 0 is greedy."""

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


def read_object(body: bytes) -> dict[str, Any]:
    """Decode a body that must be a JSON object."""
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:  # DecodeError and bytes that are not UTF-8 are ValueErrors
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, not {_kind(value)}")
    return value


def read_messages(value: Any, path: str) -> tuple[Message, ...]:
    """Return one conversation that waits for a reply: it is not empty and its last message is a user's or a tool's."""
    if not isinstance(value, list) or not value:
        raise Refusal(400, f"{path} must be a list of messages, not {_kind(value)}", param=path)
    messages = tuple(_message(item, f"{path}[{index}]") for index, item in enumerate(value))
    if messages[-1].role not in ("user", "tool"):
        what = f"{path} ends with a message of role '{messages[-1].role}': there is nothing to reply to"
        raise Refusal(400, f"{what}; leave that message out or add a user message", param=path)
    return messages


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise Refusal(400, f"{path} must be an object with role and content, not {_kind(value)}", param=path)
    role = value.get("role")
    if role not in ROLES:
        fix = near(role, ROLES) if isinstance(role, str) else ""
        raise Refusal(400, f"{path}.role must be one of {', '.join(ROLES)}; {fix}".rstrip("; "), param=f"{path}.role")
    content = value.get("content")
    if content is None and role == "assistant" and value.get("tool_calls"):
        content = ""
    extra = {key: item for key, item in value.items() if key not in ("role", "content")}
    return Message(role, _text(content, f"{path}.content"), extra)


def _text(content: Any, path: str) -> str:
    """Return a content that is a text, or OpenAI's list of text parts, as one text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        for index, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                what = f'{path}[{index}] must be {{"type": "text", "text": ...}}: the model reads text only'
                raise Refusal(400, what, param=path)
        return "".join(part["text"] for part in content)
    raise Refusal(400, f"{path} must be a text, not {_kind(content)}", param=path)


def refuse_unknown(given: Iterable[str], known: Sequence[str], path: str) -> None:
    """Refuse the first name of `given` that is not in `known`."""
    for name in given:
        if name not in known:
            fix = near(name, known) or f"known are {', '.join(known)}"
            raise Refusal(400, f"{path} has an unknown name '{name}'; {fix}", param=name)


def integer(fields: Mapping[str, Any], name: str, minimum: int, maximum: int = 2**31 - 1) -> int | None:
    """Return an integer field, or None where it is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        at_most = f" and at most {maximum}" if maximum != 2**31 - 1 else ""
        wanted = f"an integer of at least {minimum}{at_most}"
        raise Refusal(400, f"{name} must be {wanted}, not {_shown(value)}", param=name)
    return value


def number(fields: Mapping[str, Any], name: str, minimum: float, maximum: float) -> float | None:
    """Return a number field, or None where it is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        what = f"{name} must be a number of at least {minimum:g} and at most {maximum:g}, not {_shown(value)}"
        raise Refusal(400, what, param=name)
    return float(value)


def boolean(fields: Mapping[str, Any], name: str) -> bool | None:
    """Return a boolean field, or None where it is absent or null."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(400, f"{name} must be true or false, not {_shown(value)}", param=name)
    return value


def stop_texts(fields: Mapping[str, Any], name: str = "stop") -> tuple[str, ...]:
    """Return the texts that end a reply: one text or a list of at most four, as OpenAI takes them."""
    value = fields.get(name)
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(text, str) and text for text in texts):
        raise Refusal(400, f"{name} must be a text or a list of at most 4 texts, none empty", param=name)
    return tuple(texts)


def temperature_of(given: float | None, top_p: float | None, do_sample: bool | None) -> float:
    """Return the temperature that is meant: 0 unless sampling is asked for, by any of the three; 1 is its default."""
    if do_sample is False:
        return 0.0
    if given is not None:
        return given
    return 1.0 if do_sample or (top_p is not None and top_p < 1) else 0.0


def _kind(value: Any) -> str:
    """Name the JSON type of a value, for a message."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    name = names[type(value)]
    return f"an empty {name}" if value in ("", [], {}) else f"a{'n' if name == 'object' else ''} {name}"


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:80]
