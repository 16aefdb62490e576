"""Rows as one model reads them, measured as they go by: lengths in tokens, and what a run would do with each."""

from array import array
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from penala.conversations.check import Check
from penala.conversations.conversation import Conversation
from penala.conversations.ledger import Ledger
from penala.conversations.notable import Largest
from penala.conversations.report import LONGEST, ODD, length_figures
from penala.errors import TokensError
from penala.tokens.chat_tokenizer import UNSET_LENGTH, ChatTokenizer
from penala.tokens.labels import TrainingTokens
from penala.tokens.mask import prove

BATCH_ROWS = 64  # are rendered and tokenised together, on all cores
SHOWN = 10  # of the rows that the chat template refuses
ODD_CHARACTERS = 200  # a shorter reply says little about how well the tokenizer knows its script


class Meter:
    """Takes good rows one by one and gives the figures of all at the end.

    The ledger is that of a run which may drop bad rows and rows that are too long; all rows count as train.
    """

    def __init__(self, folder: Path, name: str, max_seq_length: int | None = None) -> None:
        self._name = name
        self._tokenizer = ChatTokenizer.from_folder(folder)
        self._limits: dict[str, int] = {}
        if self._tokenizer.max_length < UNSET_LENGTH:
            self._limits["context"] = self._tokenizer.max_length
        if max_seq_length is not None:
            self._limits["max_seq_length"] = max_seq_length
        self._limit = min(self._limits.values(), default=UNSET_LENGTH)
        self._now = datetime.now()
        self._batch: list[Conversation] = []
        self._ledger = Ledger(0)
        self._lengths: array[int] = array("q")
        self._supervised = self._trained_tokens = self._num_refused = 0
        self._refused: list[str] = []
        self._remarks: Counter[str] = Counter()
        self._longest, self._densest = Largest(LONGEST), Largest(ODD)

    def take(self, conversation: Conversation) -> None:
        """Take one row. It is measured together with others, at the latest by `figures`."""
        self._batch.append(conversation)
        if len(self._batch) == BATCH_ROWS:
            self._measure()

    def figures(self, checked: Check) -> dict[str, Any]:
        """Return the figures. The check says how many rows there were, and why the bad ones are bad."""
        self._measure()
        self._ledger.rows_in = checked.rows
        for code, rows in checked.bad_rows.items():
            self._ledger.add("dropped", rows=rows, reason=code)
        self._ledger.check()
        return {
            "name": self._name,
            "lengths": length_figures("tokens", self._lengths, self._limits),
            "notable": [*self._longest.rows, *self._densest.rows],
            "ledger": self._ledger.as_dict(),
            "trained_tokens": self._trained_tokens,
            "supervised_tokens": self._supervised,
            "refused": {"rows": self._num_refused, "first": self._refused},
            "remarks": [{"what": what, "rows": rows} for what, rows in sorted(self._remarks.items())],
        }

    def _measure(self) -> None:
        results = self._tokenizer.training_tokens_of(self._batch, now=self._now)
        for conversation, tokens in zip(self._batch, results, strict=True):
            try:
                if isinstance(tokens, TokensError):
                    raise tokens
                if tokens.turns:  # else all its weights are 0
                    prove(self._tokenizer, tokens)
            except TokensError as error:
                self._num_refused += 1
                self._refused += [str(error)] if len(self._refused) < SHOWN else []
                self._ledger.add("dropped", reason="template_or_mask")
                continue
            self._enter(conversation, tokens)
        self._batch.clear()

    def _enter(self, conversation: Conversation, tokens: TrainingTokens) -> None:
        length, supervised = len(tokens.ids), tokens.num_supervised
        self._lengths.append(length)
        self._longest.offer(length, f"longest: {length:,} tokens", conversation)
        said = sum(len(message.content) for message in conversation.messages if message.role == "assistant")
        if said >= ODD_CHARACTERS and supervised:
            ratio = said / supervised
            self._densest.offer(-ratio, f"only {ratio:.1f} characters a supervised token", conversation)
        for thing in tokens.unrendered:
            self._remarks[f"the chat template leaves out {thing}"] += 1
        if length > self._limit:
            self._ledger.add("dropped", tokens=length, reason="too_long")
            return
        self._trained_tokens += length
        self._supervised += supervised
        if supervised:
            self._ledger.add("trained", tokens=length, supervised=supervised)
        else:
            self._ledger.add("masked", tokens=length, reason="weight_0")
