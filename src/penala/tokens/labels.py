"""Which tokens of a rendered conversation are trained."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penala.errors import TokensError
from penala.tokens.byte_lengths import Numbers
from penala.tokens.encoding import Encoded
from penala.tokens.template import reasoning_of
from penala.tokens.turns import Rendering, Turn

NO_LOSS = -100
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Supervision:
    """Which of the assistant's turns are trained: all but those of weight 0, unless said here."""

    last_turn_only: bool = False
    tool_calls: bool = True


ALL_TURNS = Supervision()


@dataclass(frozen=True, slots=True)
class TrainingTokens:
    """One conversation as the model is trained on it.

    labels: `ids[i]` where token i is supervised, else -100.
    turns: the supervised turns, in order.
    others: the characters [start, end) of the texts that are not the assistant's, as far as they are known.
    unrendered: what the row says and the template leaves out ("tool messages", "reasoning").
    where: names the row.
    """

    ids: list[int]
    labels: Sequence[int]
    text: str
    encoded: Encoded
    turns: tuple[Turn, ...]
    others: tuple[tuple[int, int], ...]
    unrendered: tuple[str, ...]
    where: str

    @property
    def num_supervised(self) -> int:
        """How many tokens carry loss."""
        return int(np.count_nonzero(self.is_supervised))

    @property
    def is_supervised(self) -> Mask:
        """Which tokens carry loss, as an array of bool."""
        supervised: Mask = np.asarray(self.labels, np.int32) != NO_LOSS
        return supervised

    @property
    def supervised(self) -> list[int]:
        """Where the tokens that carry loss begin and end: start, stop, start, stop, ... of each stretch of them."""
        padded = np.zeros(len(self.labels) + 2, bool)
        padded[1:-1] = self.is_supervised
        borders: list[int] = (padded[1:] != padded[:-1]).nonzero()[0].tolist()
        return borders

    @property
    def texts(self) -> list[str]:
        """The text of each token; a character that is split over several stands at the last of them."""
        return self.encoded.texts(self.text)


def wanted(messages: Sequence[Mapping[str, Any]], supervision: Supervision) -> list[int]:
    """Return the numbers of the messages that are trained. Raises TokensError for a weight that is not 0 or 1."""
    numbers = []
    assistants = [n for n, message in enumerate(messages) if message.get("role") == "assistant"]
    for n in assistants[-1:] if supervision.last_turn_only else assistants:
        weight = messages[n].get("weight", 1)
        if weight not in (0, 1):
            raise TokensError(f"messages[{n}].weight is {weight!r}", fix="use 0 (not trained) or 1")
        if weight and (supervision.tool_calls or not messages[n].get("tool_calls")):
            numbers.append(n)
    return numbers


def label(rendering: Rendering, encoded: Encoded, turns: Sequence[Turn], where: str) -> TrainingTokens:
    """Supervise the tokens of `turns`, and no other."""
    labels: Numbers = np.full(len(encoded.ids), NO_LOSS, np.int32)
    for turn in turns:
        tokens = _tokens_of(turn, rendering.text, encoded)
        labels[tokens] = encoded.numbers[tokens]
    found = rendering.found
    others = tuple(
        (found.starts[n], found.ends[n])
        for n, message in enumerate(rendering.messages)
        if message.get("role") != "assistant" and n in found.starts and n in found.ends
    )
    return TrainingTokens(
        encoded.ids, labels.data, rendering.text, encoded, tuple(turns), others, _unrendered(rendering), where
    )


def _tokens_of(turn: Turn, text: str, encoded: Encoded) -> slice:
    """Return the tokens that hold a character of a turn, without those that its prompt ends with."""
    floor = turn.prompt_end
    if floor is None:  # white space of the template may be one token with the text's first word
        floor = len(text[: turn.start].rstrip())
    first = bisect_left(encoded.starts, floor)
    # a token without characters (some tokenizers mark the beginning of a word so) belongs to what follows it; a special
    # token of the template may swallow the white space behind it, and with it the reply's own
    while first < len(encoded.ids) and encoded.starts[first] < turn.start:
        if encoded.ends[first] > turn.start and not text[encoded.starts[first] : turn.start].strip():
            break
        first += 1
    return slice(first, bisect_left(encoded.starts, turn.end, first))


def _unrendered(rendering: Rendering) -> tuple[str, ...]:
    left_out = {f"{rendering.messages[n].get('role')} messages" for n in rendering.found.dropped}
    for message in rendering.messages:
        said = (("reasoning", reasoning_of(message)), ("reasoning", _thought(message)), ("name", message.get("name")))
        for key, value in said:
            if isinstance(value, str) and value.strip() not in rendering.text:
                left_out.add(key)
    return tuple(sorted(left_out))


def _thought(message: Mapping[str, Any]) -> str:
    """Return the reasoning that stands in the text of an assistant; empty when there is none."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return ""
    return content.rpartition("</think>")[0].strip().removeprefix("<think>")
