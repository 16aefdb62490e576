"""From messages to replies: admission, tokens in, text out. Both doors, `/score` and OpenAI's, go through here."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from penala.conversations.conversation import Message
from penala.endpoint.batcher import Batcher
from penala.endpoint.fields import Sampling
from penala.endpoint.refusals import Refusal
from penala.endpoint.replies import Reply, ReplyText
from penala.engines.engine import FinishReason, Generation
from penala.errors import EngineError, TokensError

log = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 512  # of a request that names no length


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """How many requests a deployment takes, with Azure's names.

    As many as may run may wait beside them, which is Azure's rule too. Its own defaults (5 s, 1 request) are for models
    that answer at once.
    """

    request_timeout_ms: int = 120_000
    max_concurrent_requests_per_instance: int = 16
    max_queue_wait_ms: int = 60_000


class Tokenizer(Protocol):
    """What serving needs of `penala.tokens.ChatTokenizer`."""

    @property
    def end_ids(self) -> frozenset[int]:
        """All ids that end a reply."""

    @property
    def max_length(self) -> int:
        """The longest conversation that the model takes, in tokens."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the conversation as the text that the model reads."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids up to where the assistant writes."""

    def parse_reply(self, ids: Sequence[int]) -> Message:
        """Return the message that ids are, up to the first that ends a reply."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation on its way: what the engine gets, and when its time is over (the event loop's clock)."""

    generation: Generation
    stop: tuple[str, ...]
    deadline: float


class Serving:
    """Reply to conversations with one model; `model` is the name that answers carry."""

    def __init__(
        self, batcher: Batcher, tokenizer: Tokenizer, *, model: str, max_length: int, settings: RequestSettings
    ) -> None:
        self.model = model
        self.created = int(time.time())
        self._batcher = batcher
        self._tokenizer = tokenizer
        self._max_length = min(max_length, tokenizer.max_length)
        self._settings = settings
        self._seats = asyncio.Semaphore(settings.max_concurrent_requests_per_instance)
        self._max_pending = 2 * settings.max_concurrent_requests_per_instance
        self._pending = 0

    @contextlib.asynccontextmanager
    async def admission(self) -> AsyncIterator[None]:
        """Count a request in and out again, after a wait while as many as may run are running.

        Raises Refusal (429) when as many as may wait are waiting, or when the wait is over.
        """
        if self._pending >= self._max_pending:
            what = f"{self._pending} requests are pending, as many as this deployment admits; try again soon"
            raise Refusal(429, what)
        self._pending += 1
        try:
            try:
                async with asyncio.timeout(self._settings.max_queue_wait_ms / 1000):
                    await self._seats.acquire()
            except TimeoutError:
                wait = self._settings.max_queue_wait_ms
                raise Refusal(429, f"still waiting after max_queue_wait_ms = {wait}; try again later") from None
            try:
                yield
            finally:
                self._seats.release()
        finally:
            self._pending -= 1

    async def ask(self, messages: Sequence[Message], sampling: Sampling) -> Asked:
        """Tokenize a conversation. Raise Refusal (400) where the template refuses it or the context is too short."""
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout_ms / 1000
        try:
            # off the loop: a long conversation takes tenths of a second
            prompt = await asyncio.to_thread(self._tokenizer.prompt, messages)
        except TokensError as error:
            raise Refusal(400, str(error), param="messages") from error
        room = self._max_length - len(prompt)
        longest = sampling.max_new_tokens
        if room < 1:
            what = f"the conversation has {len(prompt)} tokens, the model's context ends at {self._max_length}"
            raise Refusal(400, f"{what}: shorten it", param="messages", code="context_length_exceeded")
        if longest is not None and longest > room:
            what = f"{len(prompt)} tokens of conversation and {longest} of reply are more than the model's context of"
            fix = f"{self._max_length}: ask for at most {room}"
            raise Refusal(400, f"{what} {fix}", param="messages", code="context_length_exceeded")
        generation = Generation(
            prompt=tuple(prompt),
            max_new_tokens=min(DEFAULT_NEW_TOKENS, room) if longest is None else longest,
            end_ids=self._tokenizer.end_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )
        return Asked(generation, sampling.stop, deadline)

    async def pieces(self, asked: Asked) -> AsyncGenerator[str | Reply, None]:
        """Yield a reply's text as it comes, and at its end the whole reply.

        Raises Refusal: 408 when the request's time is over, 500 when the engine fails.
        """
        generation = asked.generation
        text = ReplyText(lambda ids: self._tokenizer.parse_reply(ids).content, asked.stop)
        written = 0
        reason: FinishReason = "stop"
        started = time.monotonic()
        try:
            async with aclosing(self._batcher.tokens(generation, asked.deadline)) as tokens:
                async for token in tokens:
                    written += 1
                    reason = token.finish_reason or "stop"
                    if piece := text.add(token.id):
                        yield piece
                    if text.stopped:
                        reason = "stop"
                        break
        except TimeoutError:
            limit = self._settings.request_timeout_ms
            what = f"no whole reply within request_timeout_ms = {limit}; {written} tokens were written"
            raise Refusal(408, what) from None
        except EngineError as error:
            raise Refusal(500, str(error)) from error
        if piece := text.finish():
            yield piece
        seconds = time.monotonic() - started
        log.info("replied (%s): %d + %d tokens in %.2f s", reason, len(generation.prompt), written, seconds)
        yield Reply(text.text, reason, len(generation.prompt), written)

    async def reply(self, asked: Asked) -> Reply:
        """Return a whole reply; raises as `pieces` does."""
        async with aclosing(self.pieces(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Reply):
                    return piece
        raise AssertionError("a reply ends with a Reply")

    async def replies(self, asked: Sequence[Asked]) -> list[Reply]:
        """Return whole replies, written side by side; the first failure cancels the others."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.reply(one)) for one in asked]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def text_of(self, messages: Sequence[Message]) -> str:
        """Return the prompt as text, for those who want the reply with it."""
        return self._tokenizer.render(messages, add_generation_prompt=True)


class Admission:
    """Middleware of a route: its request is pending from here until the last byte of the answer is sent."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._serving.admission():
            await self._app(scope, receive, send)
