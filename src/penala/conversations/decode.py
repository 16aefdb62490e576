"""The JSON of one row, decoded with care: every way it can be broken gets its own word."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from penala.conversations.faults import Fault

_PYTHON_REPR = re.compile(r"\s*[\[{(]+\s*'")
MAXIMUM_DEPTH = 200  # of lists and objects within each other: what looks into them, or writes them, calls itself
TOO_DEEP = "lists or objects are nested too deep to be read"
_SPACE = " \t\r\n"  # what JSON calls white space


def decode_row(data: bytes) -> tuple[Any, list[Fault]]:
    """Decode one line of JSON; return (value, faults). The value is None where nothing could be decoded."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [_not_utf8(data, error)]
    return decode_text(text)


def decode_text(text: str, path: str = "") -> tuple[Any, list[Fault]]:
    """Decode JSON that stands at `path` of a row (a column of a table); return (value, faults)."""
    doubles: list[tuple[dict[str, Any], str]] = []
    constants: list[_Constant] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) < len(items):
            keys = [key for key, _ in items]
            doubles.extend((value, key) for key in value if keys.count(key) > 1)
        return value

    def constant(name: str) -> _Constant:
        constants.append(_Constant(name))
        return constants[-1]

    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant, parse_float=_number)
    try:
        value, end = decoder.raw_decode(text, _skip_space(text, 0))
    except RecursionError:
        return None, [Fault("too_deep", path, TOO_DEEP)]
    except ValueError as error:  # JSONDecodeError, or an integer of more digits than Python reads
        return None, [Fault("broken_json", path, _why_broken(text, error))]
    if rest := text[end:].strip(_SPACE):
        return None, [_something_follows(rest, end, path)]
    if text.count("[") + text.count("{") > MAXIMUM_DEPTH and is_too_deep(value):
        return None, [Fault("too_deep", path, TOO_DEEP)]
    if not doubles and not constants:
        return value, []
    return (None if isinstance(value, _Constant) else value), _placed(value, path, doubles, constants)


def is_too_deep(value: Any) -> bool:
    """Tell whether lists and objects stand within each other deeper than MAXIMUM_DEPTH."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth > MAXIMUM_DEPTH


class _Constant:
    """Stands for NaN or Infinity until its place is known, then null does."""

    def __init__(self, name: str) -> None:
        self.name = name


def _placed(
    value: Any, path: str, doubles: Iterable[tuple[dict[str, Any], str]], constants: Iterable[_Constant]
) -> list[Fault]:
    """Return the faults with their paths in `value`, where null comes to stand for each constant."""
    paths = {id(value): path}
    todo = [value]
    while todo:
        parent = todo.pop()
        here = paths[id(parent)]
        if isinstance(parent, dict):
            items: list[tuple[Any, Any, str]] = [(k, v, f"{here}.{k}" if here else str(k)) for k, v in parent.items()]
        else:
            items = [(i, v, f"{here}[{i}]") for i, v in enumerate(parent)] if isinstance(parent, list) else []
        for key, child, place in items:
            if isinstance(child, _Constant):
                parent[key] = None
            if isinstance(child, dict | list | _Constant):
                paths[id(child)] = place
                todo.append(child)
    # what another value of the same key has replaced has no place of its own
    faults = [Fault("nan", paths.get(id(one), path), f"{one.name} is no JSON value") for one in constants]
    for parent, key in doubles:
        here = paths.get(id(parent), path)
        faults.append(Fault("double_key", f"{here}.{key}" if here else key, f"the key {key!r} stands there twice"))
    return faults


def lone_surrogates(value: Any, path: str = "") -> list[str]:
    """Return the path of every text in `value` that holds half of a surrogate pair: UTF-8 has no bytes for it."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return [path]
        return []
    if isinstance(value, dict):
        keys = [path for key in value if lone_surrogates(key)]
        return keys + [p for key, v in value.items() for p in lone_surrogates(v, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        return [found for i, item in enumerate(value) for found in lone_surrogates(item, f"{path}[{i}]")]
    return []


def looks_like_python_repr(text: str) -> bool:
    """Tell whether `text` was made by str() of a list or dict instead of json.dumps."""
    return _PYTHON_REPR.match(text) is not None


def guess_encoding(data: bytes) -> str:
    """Say which encoding bytes that are not UTF-8 could be in. A guess for a person: nothing is read with it."""
    try:
        data.decode("utf-8", "surrogatepass")
        return "they are halves of surrogate pairs, which UTF-8 does not have"
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return "they begin a character that is cut off"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "they fit no encoding that we know"
    return "they look like Windows-1252"


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text  # past a double: kept as it was written


def _skip_space(text: str, start: int) -> int:
    return start + len(text[start:]) - len(text[start:].lstrip(_SPACE))


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> Fault:
    odd = data[error.start]
    what = f"byte 0x{odd:02x} at column {error.start + 1} is not UTF-8"
    return Fault("not_utf8", "", f"{what}; {guess_encoding(data)}")


def _something_follows(rest: str, end: int, path: str) -> Fault:
    try:
        json.loads(rest)
    except (ValueError, RecursionError):
        return Fault("broken_json", path, f"{rest[:20]!r} follows the value at column {end + 1}")
    return Fault("two_on_a_line", path, f"a second value starts at column {end + 1}")


def _why_broken(text: str, error: ValueError) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return "holds a number of too many digits"
    start = text.lstrip(_SPACE)
    if not start.strip("\0"):
        return f"{len(start)} zero bytes, as a crash leaves them"
    if start.startswith("\ufeff"):
        return "begins with a byte order mark, which stands between joined files"
    if start.startswith("<"):
        return "is HTML or XML, not JSON"
    if start.startswith(("//", "#")):
        return "is a comment; JSON has none"
    if looks_like_python_repr(text):
        return "is Python's repr, not JSON: keys and texts need double quotes"
    if error.pos >= len(text.rstrip(_SPACE)) or error.msg.startswith("Unterminated string"):
        return "ends in the middle of a value; was the file cut short?"
    if error.msg.startswith("Invalid control character"):
        return f"column {error.pos + 1}: a raw {text[error.pos]!r} inside a text must be escaped"
    return f"column {error.pos + 1}: {error.msg[0].lower()}{error.msg[1:]}, near {text[error.pos : error.pos + 20]!r}"
