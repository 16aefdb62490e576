"""From conversations to the prepared folder: token ids and labels of each split, the template lock, the ledger.

train.arrow validation.arrow test.arrow      token ids, and which are supervised (prepared.py); test only where it is
raw_data/                                    the same rows as conversations, as they were trained (cut ones cut)
tokenizer.json ... config.json               what ChatTokenizer.from_folder reads
template_lock.json ledger.json preprocess_args.json
"""

import json
import shutil
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from penala.conversations.conversation import Conversation, read_jsonl, write_jsonl
from penala.conversations.ledger import Ledger
from penala.errors import DataError, TokensError
from penala.tokens import lock
from penala.tokens.chat_tokenizer import ChatTokenizer, tokenizer_files
from penala.tokens.labels import ALL_TURNS, Supervision, TrainingTokens
from penala.tokens.mask import prove
from penala.tokens.prepared import RowsWriter, split_file

BATCH_ROWS = 512  # at most, and about so many characters, are rendered and tokenised together, on all cores
BATCH_CHARACTERS = 1 << 18
FIRST_ROWS = 1000  # of train, in which short ones are looked for that the template lock renders
SHOWN = 20  # of the rows that cannot be prepared
MODEL_FILES = ("config.json", "generation_config.json")  # they say where a reply ends, and how long a row may be

Report = Callable[[dict[str, Any]], None]


class Rows(Protocol):
    """The rows of one split, which may be read anew each time they are looked at."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Conversation]: ...


class Splits(Protocol):
    """What is asked of penala.conversations.split.Splits."""

    @property
    def train(self) -> Rows: ...
    @property
    def validation(self) -> Rows: ...
    @property
    def test(self) -> Rows: ...
    @property
    def held_out(self) -> Container[str]: ...
    @property
    def rows_in(self) -> int: ...
    @property
    def bad_rows(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """How rows become tokens. Below 1, `max_seq_length` is the model's own limit, which no setting exceeds."""

    max_seq_length: int = -1
    on_too_long: Literal["error", "cut_turns", "drop"] = "error"
    supervision: Supervision = ALL_TURNS


def prepare(splits: Splits, model_folder: Path, out: Path, settings: PrepareSettings, report: Report) -> dict[str, Any]:
    """Write the prepared folder `out` and return the figures: the ledger, tokens by split, the lengths of train's rows.

    Raises DataError that lists the rows that are too long (unless `on_too_long` allows to cut or drop them), that the
    template refuses, and whose mask cannot be proved.
    """
    tokenizer = ChatTokenizer.from_folder(model_folder)
    preparation = _Preparation(tokenizer, settings, splits, report)
    (out / "raw_data").mkdir(parents=True, exist_ok=True)
    parts = {"train": preparation.write("train", splits.train, out)}
    parts["validation"] = preparation.write("validation", splits.validation, out)
    if len(splits.test):
        parts["test"] = preparation.write("test", splits.test, out)
    ledger = preparation.close()
    for name in [*tokenizer_files(model_folder), *(name for name in MODEL_FILES if (model_folder / name).is_file())]:
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(model_folder / name, out / name)
    first = islice(read_jsonl(out / "raw_data" / "train.jsonl"), FIRST_ROWS)
    lock.TemplateLock.make(tokenizer, first).save(out / lock.FILE)
    _write_json(out / "ledger.json", {**ledger, "changed_rows": preparation.changed})
    _write_json(out / "preprocess_args.json", {**asdict(settings), "limit": preparation.limit})
    return {
        "ledger": ledger,
        "tokens": {name: {"total": sum(part.lengths), "supervised": part.supervised} for name, part in parts.items()},
        "lengths": _percentiles(parts["train"].lengths),
    }


@dataclass(slots=True)
class _Part:
    """What became of one split: the lengths of its rows as they are trained, and their supervised tokens."""

    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: int = 0


class _Preparation:
    """The books of one preparation: every row of train in the ledger, every problem of every split in one list."""

    def __init__(self, tokenizer: ChatTokenizer, settings: PrepareSettings, splits: Splits, report: Report) -> None:
        self.limit = tokenizer.max_length
        if settings.max_seq_length > 0:
            self.limit = min(settings.max_seq_length, tokenizer.max_length)
        self.changed: list[dict[str, Any]] = []  # rows that were cut or dropped, and by how much
        self._tokenizer = tokenizer
        self._settings = settings
        self._report = report
        self._now = datetime.now()  # what templates that ask for the time are told: one moment for all rows
        self._ledger = Ledger(splits.rows_in)
        for code, rows in splits.bad_rows.items():
            self._ledger.add("dropped", rows=rows, reason=code)
        self._held_out = splits.held_out
        self._total = len(splits.train) + len(splits.validation) + len(splits.test)
        self._done = 0
        self._problems: list[str] = []
        self._num_too_long = 0
        self._remarks: Counter[str] = Counter()
        if settings.max_seq_length > self.limit:
            self._note(f"max_seq_length is {settings.max_seq_length:,}, the model takes {self.limit:,} tokens at most")

    def write(self, split: str, rows: Rows, out: Path) -> _Part:
        """Write the ids and labels of one split, and its conversations, holding no more than a batch of them."""
        part, supervision = _Part(), self._settings.supervision
        with RowsWriter(split_file(out, split)) as file, (out / "raw_data" / f"{split}.jsonl").open("wb") as raw:
            for batch, results in self._tokenizer.training_tokens_by(_batches(rows), supervision, now=self._now):
                self._tokenizer.make_ready()  # for the lock, while threads tokenise what follows
                for row, tokens in self._prepared(split, batch, results):
                    file.add(tokens.encoded.numbers, tokens.supervised)
                    write_jsonl(raw, [row])
                    part.lengths.append(len(tokens.ids))
                    part.supervised += tokens.num_supervised
                self._done += len(batch)
                progress = {"done": self._done, "total": self._total, "unit": "conversations"}
                self._report({"event": "progress", **progress})
        return part

    def close(self) -> dict[str, Any]:
        """Return the ledger. Raises DataError with the problems of all rows."""
        if self._problems:
            shown = "\n  ".join(self._problems[:SHOWN])
            more = f"\n  and {len(self._problems) - SHOWN} more" if len(self._problems) > SHOWN else ""
            raise DataError(f"{len(self._problems)} rows cannot be trained:\n  {shown}{more}", fix=self._fix())
        self._ledger.check()
        for remark, rows in sorted(self._remarks.items()):
            self._note(f"{remark} (rows: {rows:,})")
        return self._ledger.as_dict()

    def _prepared(
        self, split: str, batch: Sequence[Conversation], results: Sequence[TrainingTokens | TokensError]
    ) -> Iterator[tuple[Conversation, TrainingTokens]]:
        """Yield the rows that are kept, as they are trained."""
        for conversation, whole in zip(batch, results, strict=True):
            try:
                if isinstance(whole, TokensError):
                    raise whole
                kept = self._fitted(conversation, whole)
                if kept is not None and not _is_masked_by_wish(*kept):
                    prove(self._tokenizer, kept[1])
            except TokensError as error:
                self._problems.append(str(error))
                continue
            tokens = kept[1] if kept is not None else None
            self._enter(split, conversation, whole, tokens)
            self._remark(split, conversation, whole, kept)
            if kept is not None:
                yield kept

    def _fitted(self, row: Conversation, whole: TrainingTokens) -> tuple[Conversation, TrainingTokens] | None:
        """Apply `on_too_long`: return the row as it is or shortened, None when it is dropped."""
        if len(whole.ids) <= self.limit:
            return row, whole
        if self._settings.on_too_long == "drop":
            return None
        if self._settings.on_too_long == "cut_turns" and (shortened := self._cut(row)) is not None:
            return shortened
        self._num_too_long += 1
        first = " in its first turn already" if self._settings.on_too_long == "cut_turns" else ""
        raise TokensError(f"{len(whole.ids):,} tokens{first}, the limit is {self.limit:,}", where=whole.where)

    def _cut(self, row: Conversation) -> tuple[Conversation, TrainingTokens] | None:
        """Leave out as few of the last messages as needed; the row still ends in an assistant's. None: it cannot."""

        def first(count: int) -> TrainingTokens:
            shortened = replace(row, messages=row.messages[:count])
            return self._tokenizer.training_tokens(shortened, self._settings.supervision, now=self._now)

        ends = [n for n, message in enumerate(row.messages, 1) if message.role == "assistant"]
        fitting = bisect_right(ends, self.limit, key=lambda count: len(first(count).ids))
        if fitting == 0:
            return None
        tokens = first(ends[fitting - 1])
        return (replace(row, messages=row.messages[: ends[fitting - 1]]), tokens) if tokens.num_supervised else None

    def _enter(self, split: str, row: Conversation, whole: TrainingTokens, kept: TrainingTokens | None) -> None:
        """Enter a row that stood in train in the ledger: `whole` as it came, `kept` as it is trained."""
        tokens = len(whole.ids)
        if split in self._held_out:
            self._ledger.add("held_out", tokens=tokens)
        elif split == "train" and kept is None:
            self._ledger.add("dropped", tokens=tokens, reason="too_long")
        elif split == "train" and kept is not None:
            removed = tokens - len(kept.ids)
            supervised = kept.num_supervised
            if not supervised:
                self._ledger.add("masked", tokens=tokens, removed=removed, reason=_why_masked(row))
            elif removed:
                self._ledger.add("cut", tokens=tokens, supervised=supervised, removed=removed, reason="too_long")
            else:
                self._ledger.add("trained", tokens=tokens, supervised=supervised)

    def _remark(
        self, split: str, row: Conversation, whole: TrainingTokens, kept: tuple[Conversation, TrainingTokens] | None
    ) -> None:
        """Note what was shortened or dropped, and what is trained otherwise than the row says."""
        messages, tokens = (len(kept[0].messages), len(kept[1].ids)) if kept is not None else (0, 0)
        if tokens < len(whole.ids):
            place = {"split": split, "file": row.file, "line": row.line}
            counts = {"messages": len(row.messages), "kept": messages, "tokens_removed": len(whole.ids) - tokens}
            self.changed.append(place | counts)
            self._remarks["too long, shortened by whole turns" if kept is not None else "too long, dropped"] += 1
        if kept is not None:
            for thing in kept[1].unrendered:
                self._remarks[f"the chat template leaves out {thing}"] += 1
            if any(turn.prompt_end is None for turn in kept[1].turns):
                self._remarks["the chat template asks for a reply otherwise than it shows one in a conversation"] += 1

    def _fix(self) -> str | None:
        if not self._num_too_long:
            return None
        ways = "cut_turns or drop" if self._settings.on_too_long == "error" else "drop"
        raised = ", or raise max_seq_length" if self.limit < self._tokenizer.max_length else ""
        return f"for rows that are too long, set on_too_long to {ways}{raised}"

    def _note(self, text: str) -> None:
        self._report({"event": "note", "text": text})


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


def _is_masked_by_wish(row: Conversation, tokens: TrainingTokens) -> bool:
    """Tell whether a row has assistant messages and the user wants none of them trained."""
    return not tokens.turns and any(message.role == "assistant" for message in row.messages)


def _why_masked(row: Conversation) -> str:
    """Name what masked a whole row: its weights, or else the choice of turns."""
    weights = [message.extra.get("weight", 1) for message in row.messages if message.role == "assistant"]
    return "not_chosen" if any(weights) else "weight_0"


def _percentiles(lengths: Sequence[int]) -> dict[str, int]:
    """Return the median, the 90th percentile and the longest, in tokens; zeros for no rows."""
    ordered = sorted(lengths) or [0]
    last = len(ordered) - 1
    return {"p50": ordered[last // 2], "p90": ordered[last * 9 // 10], "max": ordered[last]}


def _write_json(path: Path, value: Any) -> None:
    lock.write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
