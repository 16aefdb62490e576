"""What every engine takes and gives: token ids, never text. Text belongs to `penala.tokens`."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]
OnToken = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Generation:
    """One reply that is asked for.

    `prompt` ends where the assistant writes; temperature 0 takes the likeliest token each time; `seed` makes sampling
    repeatable, whoever else is in the batch; None draws a fresh one.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    end_ids: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        # The doors (recipe, scoring contract) refuse these with a message for people; here they would be our bug
        if not self.prompt or self.max_new_tokens < 1 or self.temperature < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(f"not a reply that can be written: {self}")


@dataclass(frozen=True, slots=True)
class Completion:
    """A written reply. With the reason "stop" its last id is one of the request's `end_ids`."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class NewToken:
    """The next token of a request; `finish_reason` is None until its last one."""

    request: int
    id: int
    finish_reason: FinishReason | None


@dataclass(slots=True)
class _Reply:
    index: int
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "cancelled"


class Engine(abc.ABC):
    """A loaded model that writes many replies at once; requests come and go between two steps.

    Not thread-safe: one thread owns an engine.
    """

    max_length: int
    """Prompt and reply together, in tokens; a reply that reaches it ends with the reason "length"."""

    @abc.abstractmethod
    def add(self, request: Generation) -> int:
        """Queue a request and return its number. Raise EngineError when its prompt leaves no room for a token."""

    @abc.abstractmethod
    def step(self) -> list[NewToken]:
        """Write the next token of the replies under way, after letting in what waits and fits; [] when idle."""

    @abc.abstractmethod
    def cancel(self, request: int) -> None:
        """Forget a request, waiting or under way; one that has ended is left alone."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Forget all requests."""

    def generate(self, requests: Sequence[Generation], on_token: OnToken | None = None) -> list[Completion]:
        """Write all replies and return them in the order of `requests`.

        `on_token(index, id)` is called for each token as it is written; when it returns False, that reply ends there
        with the reason "cancelled".
        """
        # similar lengths side by side: little padding
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt), reverse=True)
        try:
            replies = {self.add(requests[index]): _Reply(index) for index in order}
            while tokens := self.step():
                for token in tokens:
                    _take(self, replies[token.request], token, on_token)
        except BaseException:  # Ctrl-C included: the engine is usable afterwards
            self.reset()
            raise
        by_index = {reply.index: reply for reply in replies.values()}
        return [Completion(tuple(by_index[i].ids), by_index[i].finish_reason) for i in range(len(requests))]


def _take(engine: Engine, reply: _Reply, token: NewToken, on_token: OnToken | None) -> None:
    reply.ids.append(token.id)
    reply.finish_reason = token.finish_reason or "cancelled"
    if on_token is not None and on_token(reply.index, token.id) is False and token.finish_reason is None:
        engine.cancel(token.request)
