"""Where texts stand in a rendering, told from another rendering of messages by the same roles.

Marks (marks.py) prove where a template writes the texts of a conversation, and so also what it writes around them: the
*frame* of these roles. A rendering that is the frame with its own texts in it, character for character, has them at
the same places, and no second rendering is needed to say so. Any other goes through the marks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from penala.tokens.encoding import pattern
from penala.tokens.marks import Control, Found

MAXIMUM = 4096  # frames are kept; conversations have few shapes

Key = tuple[str | bool, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes before the first text, between texts and behind the last.

    controls: for each of these pieces, its control tokens. counts: how often each character that begins a control token
    stands in the pieces.
    """

    pieces: tuple[str, ...]
    controls: tuple[tuple[Control, ...], ...]
    counts: tuple[tuple[str, int], ...]


class Frames:
    """The frames that one template has shown so far. `controls` are the tokens that only it may write."""

    def __init__(self, controls: Collection[str]) -> None:
        self._frames: dict[Key, Frame] = {}
        self._controls = pattern(controls)
        self._begins = sorted({control[0] for control in controls})
        self._parts = frozenset(control[:length] for control in controls for length in range(1, len(control)))

    def find(self, messages: Sequence[dict[str, Any]], prompt: bool, text: str) -> tuple[Found, list[Control]] | None:
        """Return where the texts and the control tokens of a rendering stand; None when no frame tells.

        No frame tells of a text that spells a control token, alone or together with what stands beside it, nor of one
        that holds a character of the last private-use planes or half a character.
        """
        key, texts = _shape(messages, prompt)
        if key is None or (frame := self._frames.get(key)) is None:
            return None
        parts = [part for pair in zip(frame.pieces, texts, strict=False) for part in pair]
        if text != "".join([*parts, frame.pieces[-1]]):
            return None
        if not text.isascii() and not _is_usual(text):
            return None
        starts, ends, controls = {}, {}, []
        borders = [0, *accumulate(map(len, parts))]
        for n, content in enumerate(texts):
            start, end = borders[2 * n + 1], borders[2 * n + 2]
            if content[0].isspace() or content[-1].isspace():
                start, end = start + len(content) - len(content.lstrip()), end - len(content) + len(content.rstrip())
            starts[n], ends[n] = start, end
        for at, tokens in zip(borders[::2], frame.controls, strict=True):
            controls += [Control(at + start, at + end, token) for start, end, token in tokens]
        is_spelled = any(text.count(c) != n for c, n in frame.counts)  # or what begins a control token at least
        if is_spelled and [m.span() for m in self._controls.finditer(text)] != [(c.start, c.end) for c in controls]:
            return None
        return Found(starts, ends), controls

    def learn(
        self, messages: Sequence[dict[str, Any]], prompt: bool, text: str, found: Found, controls: Sequence[Control]
    ) -> None:
        """Keep the frame of a rendering, if marks have proved all of it."""
        key, texts = _shape(messages, prompt)
        numbers = range(len(messages))
        if key is None or found.spelled or any(n not in found.starts or n not in found.ends for n in numbers):
            return
        if any(text[found.starts[n] : found.ends[n]] != content for n, content in enumerate(texts)):
            return
        borders = [0, *(at for n in numbers for at in (found.starts[n], found.ends[n])), len(text)]
        if borders != sorted(borders) or len(self._frames) >= MAXIMUM:
            return
        pieces = tuple(text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True))
        inside = tuple(
            tuple(Control(c.start - start, c.end - start, c.token) for c in controls if start <= c.start < c.end <= end)
            for start, end in zip(borders[::2], borders[1::2], strict=True)
        )
        if sum(map(len, inside)) < len(controls):
            return
        if any(piece.endswith(part) for piece in pieces[:-1] for part in self._parts):  # a text might complete it
            return
        written = "".join(pieces)
        self._frames[key] = Frame(pieces, inside, tuple((c, written.count(c)) for c in self._begins))


def _shape(messages: Sequence[dict[str, Any]], prompt: bool) -> tuple[Key | None, list[str]]:
    """Return what decides the frame of a conversation, and its texts; None when it has more than roles and texts."""
    roles: list[str | bool] = [prompt]
    texts = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if len(message) != 2 or not isinstance(role, str) or not isinstance(content, str) or not content.strip():
            return None, []
        roles.append(role)
        texts.append(content)
    return tuple(roles), texts


def _is_usual(text: str) -> bool:
    """Tell whether a text holds no half character and no character from U+100000 on, which marks are made of."""
    try:
        return b"\xf4" not in text.encode()
    except UnicodeEncodeError:
        return False
