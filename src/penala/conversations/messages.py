"""One message: its role, its text and its other keys, read from whatever stands there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from penala.conversations.decode import decode_text, looks_like_python_repr
from penala.conversations.faults import Fault
from penala.errors import near

ROLES = {
    "system": "system",
    "developer": "system",  # what newer OpenAI models call it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI before tools
}
OFTEN_MEANT = {
    "human": "user",
    "customer": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "agent": "assistant",
    "observation": "tool",
}
TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(slots=True)
class Turn:
    """A message as read. `role` or `content` is None where it could not be; faults then say why."""

    role: str | None
    content: str | None
    path: str
    role_path: str
    content_path: str
    written: str = ""  # the role as it was written
    extra: dict[str, Any] = field(default_factory=dict)


def read_turn(
    item: Any, path: str, keys: tuple[str, str], roles: Mapping[str, str], faults: list[Fault]
) -> Turn | None:
    """Read one item of a list of messages, whose (role, content) stand under `keys`; None where it is no message."""
    if not isinstance(item, dict):
        faults.append(_not_a_message(item, path))
        return None
    role_key, content_key = keys
    extra = {key: value for key, value in item.items() if value is not None and key not in keys}
    _modernise(extra, path, faults)
    turn = Turn(None, None, path, f"{path}.{role_key}", f"{path}.{content_key}", extra=extra)
    if role_key in item:
        turn.role = _read_role(item[role_key], turn.role_path, roles, faults)
        turn.written = str(item[role_key])
    else:
        faults.append(Fault("missing_role", path, _has_no(role_key, item), _other_keys(path, keys, item)))
    if content_key in item or "tool_calls" in extra:
        turn.content = read_content(item.get(content_key), turn.content_path, faults, calls="tool_calls" in extra)
    else:
        faults.append(Fault("missing_content", path, _has_no(content_key, item), _other_keys(path, keys, item)))
    return turn


def _not_a_message(item: Any, path: str) -> Fault:
    if item is None:
        return Fault("message_null", path, "is null, not a message")
    if isinstance(item, str):
        return Fault("messages_strings", path, "is text, not a message with a role and a content")
    if isinstance(item, list):
        return Fault("messages_nested", path, "is a list, not a message")
    return Fault("messages_object", path, f"is {item!r}, not a message")


def _has_no(key: str, item: dict[str, Any]) -> str:
    return f"has no {key!r}, only {', '.join(map(repr, item))[:200] or 'nothing'}"


def _other_keys(path: str, keys: tuple[str, str], item: dict[str, Any]) -> str:
    """Return the fix for messages that are written with the keys of another schema, else nothing."""
    if keys == ("from", "value") and {"role", "content"} <= item.keys():
        return "name the keys with `columns` (--column from=role --column value=content)"
    if keys == ("role", "content") and {"from", "value"} <= item.keys():
        return (
            f"these are ShareGPT's keys: name the list with `columns` (--column conversations={path.partition('[')[0]})"
        )
    return ""


def _modernise(extra: dict[str, Any], path: str, faults: list[Fault]) -> None:
    """Turn OpenAI's older function_call into tool_calls: no template knows it."""
    if isinstance(extra.get("function_call"), dict) and "tool_calls" not in extra:
        extra["tool_calls"] = [{"type": "function", "function": extra.pop("function_call")}]
    calls = extra.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        faults.append(Fault("bad_tools", f"{path}.tool_calls", "is not a list of calls"))
    elif calls == []:
        del extra["tool_calls"]
    else:
        for i, call in enumerate(calls or []):
            _check_call(call, f"{path}.tool_calls[{i}]", faults)


def _check_call(call: dict[str, Any], path: str, faults: list[Fault]) -> None:
    """See that a call has a name, which templates would leave out without a word, and that its arguments are JSON."""
    function, here = (call["function"], f"{path}.function") if "function" in call else (call, path)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        faults.append(Fault("bad_tools", here, "names no function"))
        return
    arguments = function.get("arguments")
    say_nulls(arguments, f"{here}.arguments", faults)
    if isinstance(arguments, str) and arguments.strip():
        _, found = decode_text(arguments)
        if found:
            what = f"is no JSON: {found[0].message}"
            faults.append(Fault("bad_arguments", f"{here}.arguments", what))


def say_nulls(value: Any, path: str, faults: list[Fault]) -> None:
    """Note the keys that are null in what templates write out as JSON."""
    nulls = list(_null_keys(value, path))
    if nulls:
        more = f", and so are {len(nulls) - 1} more" if len(nulls) > 1 else ""
        faults.append(Fault("null_keys", nulls[0], f"is null{more}"))


def _null_keys(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _null_keys(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if item is None and key != "default":  # which JSON schemas may have
                yield f"{path}.{key}"
            yield from _null_keys(item, f"{path}.{key}")


def _read_role(value: Any, path: str, roles: Mapping[str, str], faults: list[Fault]) -> str | None:
    if value is None:
        faults.append(Fault("role_null", path, "is null"))
        return None
    if isinstance(value, int | float):
        faults.append(Fault("role_number", path, f"is {value!r}, not a role"))
        return None
    if not isinstance(value, str):
        faults.append(Fault("role_object", path, f"is {_kind(value)}, not a role"))
        return None
    bare = value.strip()
    role = roles.get(bare.lower())
    if role is None:
        faults.append(Fault("unknown_role", path, f"is {value!r}", _role_fix(bare.lower(), roles)))
        return None
    if bare != value:
        faults.append(Fault("role_spaces", path, f"is {value!r}, read as {role}"))
    if bare != bare.lower():
        faults.append(Fault("role_case", path, f"is {value!r}, read as {role}"))
    if bare.lower() == "developer":
        faults.append(Fault("developer_role", path, "is 'developer', read as system"))
    return role


def _role_fix(role: str, roles: Iterable[str]) -> str:
    if role == "function_call":
        return "write it as an assistant's message with tool_calls"
    meant = OFTEN_MEANT.get(role)
    guess = f"did you mean '{meant}'?" if meant else near(role, roles)
    return "use system, user, assistant or tool" + (f"; {guess}" if guess else "")


def read_content(value: Any, path: str, faults: list[Fault], *, calls: bool = False) -> str | None:
    """Return the text of a message; an assistant that only calls tools may say nothing."""
    if isinstance(value, str):
        return value
    if value is None:
        if calls:
            return ""
        faults.append(Fault("null_content", path, "is null"))
    elif isinstance(value, list):
        return _read_parts(value, path, faults)
    elif isinstance(value, bool):
        faults.append(Fault("content_boolean", path, f"is {str(value).lower()}, not text"))
    elif isinstance(value, int | float):
        faults.append(Fault("content_number", path, f"is {value!r}, not text"))
    else:
        faults.append(Fault("content_object", path, f"is {_kind(value)}, not text"))
    return None


def _read_parts(parts: list[Any], path: str, faults: list[Fault]) -> str | None:
    texts = []
    for i, part in enumerate(parts):
        here = f"{path}[{i}]"
        if isinstance(part, str):
            faults.append(Fault("list_of_strings", here, "is text where a part {type: text, text: ...} should be"))
        elif not isinstance(part, dict):
            faults.append(Fault("content_object", here, f"is {_kind(part)}, not a part of a message"))
        elif part.get("type") not in TEXT_PARTS:
            faults.append(Fault("image_part", here, f"is a part of type {part.get('type')!r}, not text"))
        elif not isinstance(part.get("text"), str):
            faults.append(Fault("content_object", f"{here}.text", "is not text"))
        else:
            texts.append(part["text"])
    return "\n".join(texts) if len(texts) == len(parts) else None


def read_list(value: Any, path: str, faults: list[Fault]) -> list[Any] | None:
    """Return the list of messages at `path`, which tables may hold as JSON text."""
    if isinstance(value, str):
        value = _from_text(value, path, faults)
    elif value is None:
        faults.append(Fault("messages_null", path, "is null"))
    elif not isinstance(value, list):
        faults.append(Fault("messages_object", path, f"is {_kind(value)}, not a list"))
    elif not value:
        faults.append(Fault("no_messages", path, "is empty", "delete the row, or give it messages"))
    return value if isinstance(value, list) and value else None


def _from_text(text: str, path: str, faults: list[Fault]) -> Any:
    if looks_like_python_repr(text):
        faults.append(Fault("python_repr", path, "is Python's repr of a list, not JSON"))
        return None
    if not text.lstrip().startswith("["):
        faults.append(Fault("messages_text", path, f"is the text {text[:20]!r}, not a list"))
        return None
    value, found = decode_text(text, path)
    faults.extend(found)
    if value == []:
        faults.append(Fault("no_messages", path, "is empty", "delete the row, or give it messages"))
    return value


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), f"{value!r}")
