"""What becomes of each row: how it is trained, or why it is not. On all cores, in the order of the rows."""

import ctypes
import io
import multiprocessing
import os
import signal
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from penala.conversations.conversation import Conversation, Message, write_jsonl
from penala.conversations.parallel import num_cores
from penala.errors import TokensError
from penala.tokens.byte_lengths import NO_NUMBERS, Numbers
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.labels import ALL_TURNS, Supervision, TrainingTokens
from penala.tokens.mask import prove
from penala.tokens.turns import Turn

MANY_ROWS = 512  # from here on the start of the processes pays
BATCH_ROWS = 512  # at most, and about so many characters, go to a process together
BATCH_CHARACTERS = 1 << 18
_PR_SET_PDEATHSIG = 1

Packed = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """How rows become tokens. Below 1, `max_seq_length` is the model's own limit, which no setting exceeds."""

    max_seq_length: int = -1
    on_too_long: Literal["error", "cut_turns", "drop"] = "error"
    supervision: Supervision = ALL_TURNS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one row.

    problem: why it cannot be trained; `is_too_long` then says whether it is for its length.
    whole: its tokens as it came. messages: how many of its messages are kept, 0 of a row that is dropped.
    ids, supervised, num_supervised, line: the kept row's token ids, where its supervised tokens begin and end, their
    number, and its conversation as a line of JSON.
    unrendered: what the template leaves out. asks_otherwise: a turn of it is prompted otherwise than it is shown.
    """

    problem: str | None = None
    is_too_long: bool = False
    whole: int = 0
    messages: int = 0
    ids: Numbers = field(default_factory=lambda: NO_NUMBERS)
    supervised: Sequence[int] = ()
    num_supervised: int = 0
    line: bytes = b""
    unrendered: tuple[str, ...] = ()
    asks_otherwise: bool = False


class Fitting:
    """Tokenises rows, makes them fit, proves their masks. `now` is what templates that ask for the time are told."""

    def __init__(self, tokenizer: ChatTokenizer, settings: PrepareSettings, limit: int, now: datetime) -> None:
        self._tokenizer, self._settings, self._limit, self._now = tokenizer, settings, limit, now

    def __call__(self, rows: Sequence[Conversation]) -> list[Outcome]:
        """Return what becomes of each of a few rows."""
        results = self._tokenizer.training_tokens_of(rows, self._settings.supervision, now=self._now)
        return [self._outcome(row, whole) for row, whole in zip(rows, results, strict=True)]

    def _outcome(self, row: Conversation, whole: TrainingTokens | TokensError) -> Outcome:
        if isinstance(whole, TokensError):
            return Outcome(str(whole))
        length, way = len(whole.ids), self._settings.on_too_long
        fitted: tuple[Conversation, TrainingTokens] | None = (row, whole)
        if length > self._limit:
            fitted = None
            try:
                if way == "cut_turns":
                    fitted = self._cut(row, whole)
                elif way == "error":
                    raise TokensError(f"{length:,} tokens, the limit is {self._limit:,}", where=whole.where)
            except TokensError as error:
                return Outcome(str(error), is_too_long=True)
        if fitted is None:
            return Outcome(whole=length)
        kept, tokens = fitted
        if not _is_masked_by_wish(kept, tokens):
            try:
                prove(self._tokenizer, tokens)
            except TokensError as error:
                return Outcome(str(error))
        line = io.BytesIO()
        write_jsonl(line, [kept])
        return Outcome(
            whole=length,
            messages=len(kept.messages),
            ids=tokens.encoded.numbers,
            supervised=tokens.supervised,
            num_supervised=tokens.num_supervised,
            line=line.getvalue(),
            unrendered=tokens.unrendered,
            asks_otherwise=any(_is_asked_otherwise(turn, tokens.text) for turn in tokens.turns),
        )

    def _cut(self, row: Conversation, whole: TrainingTokens) -> tuple[Conversation, TrainingTokens]:
        """Leave out as few of the last messages as needed; the row still ends in an assistant's.

        Raises TokensError when its first turn does not fit, or nothing is trained in what does.
        """

        def first(count: int) -> TrainingTokens:
            shortened = replace(row, messages=row.messages[:count])
            return self._tokenizer.training_tokens(shortened, self._settings.supervision, now=self._now)

        ends = [n for n, message in enumerate(row.messages, 1) if message.role == "assistant"]
        if not ends:  # which is another reason to refuse the row
            return row, whole
        fitting = bisect_right(ends, self._limit, key=lambda count: len(first(count).ids))
        tokens = first(ends[max(fitting - 1, 0)])
        what = f"{len(whole.ids):,} tokens, {{}}, the limit is {self._limit:,}"
        if fitting == 0:
            raise TokensError(what.format(f"{len(tokens.ids):,} in its first turn already"), where=whole.where)
        if whole.num_supervised and not tokens.num_supervised:
            raise TokensError(what.format("of which none that fits is trained"), where=whole.where)
        return replace(row, messages=row.messages[: ends[fitting - 1]]), tokens


def _is_asked_otherwise(turn: Turn, text: str) -> bool:
    """Tell whether a prompt is no beginning of the row, or ends before words that the template puts before the reply.

    Qwen3's shows an empty block of reasoning there, which a model that is asked has to write itself.
    """
    return turn.prompt_end is None or not (text[turn.prompt_end : turn.start] + " ").isspace()


def _is_masked_by_wish(row: Conversation, tokens: TrainingTokens) -> bool:
    """Tell whether a row has assistant messages and the user wants none of them trained."""
    return not tokens.turns and any(message.role == "assistant" for message in row.messages)


def processes(fitting: Fitting, num_rows: int) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """Start a process a core for so many rows, or none where one process does it as well."""
    if num_rows < MANY_ROWS or num_cores() < 2:
        return nullcontext()
    # forked: a process starts in milliseconds, with the tokenizer that this one has read
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(num_cores(), context, _begin, (os.getpid(), fitting))


def outcomes(
    rows: Iterable[Conversation], fitting: Fitting, pool: ProcessPoolExecutor | None
) -> Iterator[tuple[list[Conversation], list[Outcome]]]:
    """Yield rows in batches with what becomes of them.

    A process that dies costs time, no row: its rows are done here.
    """
    if pool is None:
        for batch in _batches(rows):
            yield batch, fitting(batch)
        return
    waiting: deque[tuple[list[Conversation], Future[list[Outcome]] | None]] = deque()
    for batch in _batches(rows):
        waiting.append((batch, _submitted(pool, batch)))
        if len(waiting) > 2 * num_cores():
            yield _done(fitting, *waiting.popleft())
    while waiting:
        yield _done(fitting, *waiting.popleft())


def _batches(rows: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """Cut rows where they make enough work: what is held does not grow with their length."""
    batch: list[Conversation] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(len(message.content) for message in row.messages)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_ROWS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _submitted(pool: ProcessPoolExecutor, rows: Sequence[Conversation]) -> Future[list[Outcome]] | None:
    try:
        return pool.submit(_work, _packed(rows))
    except BrokenProcessPool:
        return None


def _done(
    fitting: Fitting, rows: list[Conversation], found: Future[list[Outcome]] | None
) -> tuple[list[Conversation], list[Outcome]]:
    try:
        return rows, found.result() if found is not None else fitting(rows)
    except BrokenProcessPool:
        return rows, fitting(rows)


def _packed(rows: Sequence[Conversation]) -> Packed:
    """Take rows apart: plain tuples travel between processes several times faster."""
    return [
        (tuple((message.role, message.content, message.extra) for message in row.messages),
         row.tools, row.columns, row.file, row.line, row.row)
        for row in rows
    ]  # fmt: skip


def _begin(parent: int, fitting: Fitting) -> None:
    """Make a process ready: it ends with its parent, leaves Ctrl-C to it, and keeps to one core."""
    global _fitting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _fitting = fitting


_fitting: Fitting  # of a worker process


def _work(rows: Packed) -> list[Outcome]:
    return _fitting([Conversation(tuple(Message(*said) for said in messages), *rest) for messages, *rest in rows])
