"""Find each assistant turn in a rendering: where the model begins to write, and the token that ends its turn.

Marks (marks.py) prove where the assistant's text stands; the prompt that the endpoint would send, when the rendering
begins with it, proves where the model takes over. What neither proves is refused: a guess trains the wrong tokens.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

from penala.errors import TokensError
from penala.tokens.marks import Control, Found
from penala.tokens.probe import Habits
from penala.tokens.template import reasoning_of

_START = attrgetter("start")
_NO_END = "a model that is trained so would never stop; use a model whose template ends each turn with a token"


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant turn in a rendering, in characters.

    The model writes from `prompt_end` (None: the rendering does not begin with this turn's prompt). Supervised are
    [start, end): the text, the calls, and the end-of-turn token, which begins at `end_token`.
    """

    message: int
    prompt_end: int | None
    start: int
    end_token: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered conversation. `controls` are the control tokens that the template wrote, in order."""

    messages: Sequence[dict[str, Any]]
    text: str
    found: Found
    habits: Habits
    controls: Sequence[Control]
    declared_ends: frozenset[str]
    prompt: Callable[[int], str]  # the prompt of a message, as text


def find_turn(rendering: Rendering, message: int) -> Turn:
    """Locate the assistant turn of `message`. Raises TokensError, with the reason, when nothing proves where it is."""
    fields = rendering.messages[message]
    content = fields.get("content") or ""
    if not isinstance(content, str):
        raise _unproved(message, "its content is no text")
    calls = bool(fields.get("tool_calls"))
    begin, finish = rendering.found.starts.get(message), rendering.found.ends.get(message)
    prompt_end = _prompt_end(rendering, message, begin if begin is not None else finish)
    if begin is None and finish is None and content.strip() and not calls:
        begin, finish = _search(rendering, message, content.strip(), prompt_end)
    if begin is None and finish is not None and prompt_end is None:
        begin = _kept(rendering, message, content, finish)
    if begin is not None and (finish is None or finish < begin):
        raise _unproved(message, "the chat template writes the assistant's text in part, twice or turned round")
    behind = finish if finish is not None else prompt_end
    if behind is None:
        raise _unproved(message, "the prompt before this turn is no beginning of the rendered conversation")
    end = _end(rendering, message, behind, calls)
    if not calls and finish is not None:
        _check_tail(rendering, message, rendering.text[finish : end.start], content)
    _check_calls(message, fields, rendering.text[behind : end.start])
    start = end.start  # of a turn without any text, its end is trained
    if begin is not None and not _reasons_first(rendering, fields, prompt_end, begin):
        start = _with_leading_space(rendering, content, begin, prompt_end)
    elif prompt_end is not None and (content.strip() or calls or reasoning_of(fields)):
        start = prompt_end  # what the template took apart (reasoning) or put into words (a call) is the model's
    return Turn(message, prompt_end, start, end.start, end.end)


def _unproved(message: int, reason: str) -> TokensError:
    fix = "rewrite the message, give it weight 0, or leave the row out"
    return TokensError(f"messages[{message}]: nothing proves which tokens the assistant wrote: {reason}", fix=fix)


def _prompt_end(rendering: Rendering, message: int, before: int | None) -> int | None:
    """Return where the prompt of this turn ends in the rendering, None when the rendering does not begin with it."""
    usual = rendering.habits.prompt_end
    if before is not None and usual and rendering.text.endswith(usual, 0, before):
        return before
    try:
        prompt = rendering.prompt(message)
    except TokensError:
        return None
    fits = rendering.text.startswith(prompt) and (before is None or len(prompt) <= before)
    return len(prompt) if fits else None


def _search(rendering: Rendering, message: int, text: str, prompt_end: int | None) -> tuple[int | None, int | None]:
    """Find the text of a template that does not let itself be marked: the only place between prompt and end of turn."""
    if prompt_end is None:
        return None, None
    end = _end(rendering, message, prompt_end, calls=False)
    turn = rendering.text[prompt_end : end.start]
    if turn.count(text) != 1:
        raise _unproved(message, "the chat template does not write the assistant's text as it is")
    begin = prompt_end + turn.index(text)
    return begin, begin + len(text)


def _kept(rendering: Rendering, message: int, content: str, finish: int) -> int:
    """Return where a text goes on whose beginning (reasoning) the template dropped: behind what begins a turn."""
    for start in _heads_end(rendering, finish):
        if content.rstrip().endswith(rendering.text[start:finish]):
            return start
    raise _unproved(message, "the chat template rewrites the assistant's text")


def _end(rendering: Rendering, message: int, behind: int, calls: bool) -> Control:
    """Return the first end-of-turn token at or behind a position, before the text of the next message."""
    if not rendering.habits.turn_ends:
        what = "the chat template ends no turn with a special token, or hides where"
        raise TokensError(what, fix=_NO_END)
    allowed = rendering.habits.turn_ends | (rendering.declared_ends if calls else frozenset())
    first = bisect_left(rendering.controls, behind, key=_START)
    end = next((control for control in islice(rendering.controls, first, None) if control.token in allowed), None)
    limit = rendering.found.next_start(behind, message)
    if end is None or (limit is not None and end.start > limit):
        what = f"messages[{message}]: the chat template ends this turn with no end-of-turn token"
        raise TokensError(what, fix=_NO_END)
    unseen = message + 1 < len(rendering.messages) and message + 1 not in rendering.found.starts
    if calls and unseen and not _comes_before(rendering, message + 1, end.end):
        raise _unproved(message, "the chat template rewrites what follows the call")
    return end


def _comes_before(rendering: Rendering, message: int, end: int) -> bool:
    """Tell whether the rendering up to `end` is the same where `message` has not been said yet."""
    try:
        return rendering.prompt(message).startswith(rendering.text[:end])
    except TokensError:
        return False


def _check_tail(rendering: Rendering, message: int, tail: str, content: str) -> None:
    """Refuse what stands between a text and its end of turn, but for what the template always writes there."""
    kept = content[len(content.rstrip()) :]
    usual = rendering.habits.tails
    if not any(tail.endswith(end) and kept.startswith(tail[: len(tail) - len(end)]) for end in usual):
        raise _unproved(message, f"{tail[:80]!r} stands between the assistant's text and its end-of-turn token")


def _check_calls(message: int, fields: dict[str, Any], written: str) -> None:
    """A call that the template leaves out would teach the model to say nothing instead."""
    times: Counter[str] = Counter()
    for n, call in enumerate(fields.get("tool_calls") or ()):
        name = call.get("function", call).get("name") if isinstance(call, dict) else None
        times[str(name)] += 1
        if not isinstance(name, str) or written.count(name) < times[name]:  # some templates write the first call only
            raise TokensError(
                f"messages[{message}].tool_calls[{n}] is not written by the chat template",
                fix="use a model whose template knows tools, or leave the row out",
            )


def _reasons_first(rendering: Rendering, fields: dict[str, Any], prompt_end: int | None, begin: int) -> bool:
    reasoning = reasoning_of(fields).strip()
    return bool(reasoning) and prompt_end is not None and reasoning in rendering.text[prompt_end:begin]


def _with_leading_space(rendering: Rendering, content: str, begin: int, prompt_end: int | None) -> int:
    """Move the beginning of a text back over the white space of its own that the template kept."""
    text, space = rendering.text, content[: len(content) - len(content.lstrip())]
    first = prompt_end if prompt_end is not None else next(_heads_end(rendering, begin), begin)
    kept = 0
    while begin - kept > first and kept < len(space) and text[begin - kept - 1] == space[-1 - kept]:
        kept += 1
    return begin - kept


def _heads_end(rendering: Rendering, before: int) -> Iterator[int]:
    """Yield where a reply can begin behind the last control token, after the longest of the usual heads first."""
    last = max((control.end for control in rendering.controls if control.end <= before), default=0)
    for head in sorted(rendering.habits.heads, key=len, reverse=True):
        if rendering.text.startswith(head, last, before):
            yield last + len(head)
