"""Find the messages' texts in a rendering, without knowing the template.

The conversation is rendered a second time with private-use characters (*marks*) around each text. When the rendering
without its marks is the plain rendering, the marks have proved where each text stands; when it is not, the template
looked at the texts, and nothing is claimed. Marks stand inside the outer white space of a text, which templates trim.
The same way proves which special tokens were spelled by a text and not written by the template.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penala.errors import TokensError
from penala.tokens.encoding import BORDER

FIRST = 0x100000  # the first character of the last private-use plane


class Control(NamedTuple):
    """A control token that the template wrote, and its characters [start, end) in the rendering."""

    start: int
    end: int
    token: str


Messages = Sequence[dict[str, Any]]
Render = Callable[[Messages, Any], str]


@dataclass(frozen=True, slots=True)
class Found:
    """Where texts stand in a rendering, in characters.

    `starts` and `ends` go by the number of the message: the text without its outer white space. A side that the
    template dropped or wrote twice is not there; `dropped` are the messages that lost both sides. `spelled` are the
    beginnings of special tokens that are only text.
    """

    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()
    spelled: frozenset[int] = frozenset()

    def next_start(self, position: int, message: int) -> int | None:
        """Return where the first text of another message stands at or behind `position`."""
        sides = (*self.starts.items(), *self.ends.items())
        return min((at for n, at in sides if n != message and at >= position), default=None)


def find(render: Render, messages: Messages, tools: Any, text: str, controls: re.Pattern[str]) -> Found:
    """Return where the texts of `messages` stand in `text`, their plain rendering, as far as marks can prove it.

    Raises TokensError when a text spells a control token and it cannot be told where it went.
    """
    first = max(FIRST, 1 + ord(max(text, default="\0")))
    if first + 2 * len(messages) > BORDER:
        what = f"the text holds private-use characters up to U+{first - 1:X}, which are reserved here"
        raise TokensError(what, fix="leave them out of the text, or leave the row out")
    breaker = chr(first)
    broken_messages, broken_tools = _broken(messages, controls, breaker), _broken(tools, controls, breaker)
    whole = {n for n, message in enumerate(messages) if _is_text(message)}
    assistants = {n for n in whole if messages[n].get("role") == "assistant"}
    # a template may look into what a user says (is it a tool's result?): a second time only the assistant is marked
    for marked in (whole, assistants, set[int]()):
        marks = {n: _marked(broken_messages[n], first + 1 + 2 * n) for n in marked}
        rows = [marks.get(n, message) for n, message in enumerate(broken_messages)]
        try:
            rendering = render(rows, broken_tools)
        except TokensError:
            continue  # the template refuses the marks
        unmarked, places = _unmarked(rendering, breaker)
        if unmarked == text:
            once = {mark - first: at[0] for mark, at in places.items() if len(at) == 1}
            return Found(
                {n: once[1 + 2 * n] for n in marked if 1 + 2 * n in once},
                {n: once[2 + 2 * n] for n in marked if 2 + 2 * n in once},
                frozenset(n for n in marked if not places.keys() & {first + 1 + 2 * n, first + 2 + 2 * n}),
                frozenset(at - 1 for at in places.get(first, [])),
            )
    raise TokensError("a text spells a special token, and the chat template rewrites it, so it cannot be kept as text")


def _is_text(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and not (content == "" or content.isspace())


def _marked(message: dict[str, Any], mark: int) -> dict[str, Any]:
    """Put the characters `mark` and `mark` + 1 around the content, inside its outer white space."""
    content = message["content"]
    start, end = len(content) - len(content.lstrip()), len(content.rstrip())
    return {**message, "content": f"{content[:start]}{chr(mark)}{content[start:end]}{chr(mark + 1)}{content[end:]}"}


def _broken(value: Any, controls: re.Pattern[str], breaker: str) -> Any:
    """Put `breaker` behind the first character of each control token that a text anywhere in `value` spells."""
    if isinstance(value, str):
        return controls.sub(lambda match: match[0][0] + breaker + match[0][1:], value)
    if isinstance(value, dict):
        return {_broken(key, controls, breaker): _broken(item, controls, breaker) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_broken(item, controls, breaker) for item in value]
    return value


def _unmarked(rendering: str, first: str) -> tuple[str, dict[int, list[int]]]:
    """Take the marks, `first` and up, out: the text without them, and the places in it where each mark stood."""
    parts: list[str] = []
    places: dict[int, list[int]] = {}
    done = length = 0
    for match in re.finditer(f"[{first}-{chr(BORDER)}]", rendering):
        parts.append(rendering[done : match.start()])
        length += match.start() - done
        done = match.end()
        places.setdefault(ord(match[0]), []).append(length)
    return "".join([*parts, rendering[done:]]), places
