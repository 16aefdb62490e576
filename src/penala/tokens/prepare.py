"""From conversations to the prepared folder: token ids and labels of each split, the template lock, the ledger.

train.arrow validation.arrow test.arrow      token ids, and which are supervised (prepared.py); test only where it is
raw_data/                                    the same rows as conversations, as they were trained (cut ones cut)
tokenizer.json ... config.json               what ChatTokenizer.from_folder reads
template_lock.json ledger.json preprocess_args.json
"""

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from penala.conversations.conversation import Conversation, read_jsonl
from penala.conversations.ledger import Ledger
from penala.errors import DataError, counted
from penala.tokens import lock
from penala.tokens.chat_tokenizer import ChatTokenizer, tokenizer_files
from penala.tokens.outcomes import Fitting, Outcome, PrepareSettings, outcomes, processes
from penala.tokens.prepared import RowsWriter, split_file

__all__ = ["PrepareSettings", "prepare"]

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


def prepare(splits: Splits, model_folder: Path, out: Path, settings: PrepareSettings, report: Report) -> dict[str, Any]:
    """Write the prepared folder `out` and return the figures: the ledger, tokens by split, the lengths of train's rows.

    Raises DataError that lists the rows that are too long (unless `on_too_long` allows to cut or drop them), that the
    template refuses, and whose mask cannot be proved.
    """
    tokenizer = ChatTokenizer.from_folder(model_folder)
    preparation = _Preparation(tokenizer, settings, splits, report)
    (out / "raw_data").mkdir(parents=True, exist_ok=True)
    rows = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    with processes(preparation.fitting, sum(map(len, rows.values()))) as pool:
        written = [split for split in rows if split != "test" or len(splits.test)]
        parts = {split: preparation.write(split, rows[split], out, pool) for split in written}
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
        self.fitting = Fitting(tokenizer, settings, self.limit, datetime.now())  # one moment for all rows
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

    def write(self, split: str, rows: Rows, out: Path, pool: ProcessPoolExecutor | None) -> _Part:
        """Write the tokens of one split, and its conversations, holding no more than a few batches of them."""
        part = _Part()
        with RowsWriter(split_file(out, split)) as file, (out / "raw_data" / f"{split}.jsonl").open("wb") as raw:
            for batch, results in outcomes(rows, self.fitting, pool):
                for row, outcome in zip(batch, results, strict=True):
                    if outcome.problem is not None:
                        self._problems.append(outcome.problem)
                        self._num_too_long += outcome.is_too_long
                        continue
                    self._enter(split, row, outcome)
                    self._remark(split, row, outcome)
                    if outcome.messages:
                        file.add(outcome.ids, outcome.supervised)
                        raw.write(outcome.line)
                        part.lengths.append(len(outcome.ids))
                        part.supervised += outcome.num_supervised
                self._done += len(batch)
                progress = {"done": self._done, "total": self._total, "unit": "conversations"}
                self._report({"event": "progress", **progress})
        return part

    def close(self) -> dict[str, Any]:
        """Return the ledger. Raises DataError with the problems of all rows."""
        if self._problems:
            shown = "\n  ".join(self._problems[:SHOWN])
            more = f"\n  and {len(self._problems) - SHOWN} more" if len(self._problems) > SHOWN else ""
            raise DataError(
                f"{counted(len(self._problems), 'row')} cannot be trained:\n  {shown}{more}", fix=self._fix()
            )
        self._ledger.check()
        for remark, rows in sorted(self._remarks.items()):
            self._note(f"{remark} (rows: {rows:,})")
        return self._ledger.as_dict()

    def _enter(self, split: str, row: Conversation, outcome: Outcome) -> None:
        """Enter a row that stood in train in the ledger."""
        tokens = outcome.whole
        if split in self._held_out:
            self._ledger.add("held_out", tokens=tokens)
        elif split == "train" and not outcome.messages:
            self._ledger.add("dropped", tokens=tokens, reason="too_long")
        elif split == "train":
            removed = tokens - len(outcome.ids)
            supervised = outcome.num_supervised
            if not supervised:
                self._ledger.add("masked", tokens=tokens, removed=removed, reason=_why_masked(row))
            elif removed:
                self._ledger.add("cut", tokens=tokens, supervised=supervised, removed=removed, reason="too_long")
            else:
                self._ledger.add("trained", tokens=tokens, supervised=supervised)

    def _remark(self, split: str, row: Conversation, outcome: Outcome) -> None:
        """Note what was shortened or dropped, and what is trained otherwise than the row says."""
        removed = outcome.whole - len(outcome.ids)
        if removed:
            place = {"split": split, "file": row.file, "line": row.line}
            counts = {"messages": len(row.messages), "kept": outcome.messages, "tokens_removed": removed}
            self.changed.append(place | counts)
            self._remarks["too long, shortened by whole turns" if outcome.messages else "too long, dropped"] += 1
        for thing in outcome.unrendered:
            self._remarks[f"the chat template leaves out {thing}"] += 1
        if outcome.asks_otherwise:
            self._remarks["the chat template asks for a reply otherwise than it shows one in a conversation"] += 1

    def _fix(self) -> str | None:
        if not self._num_too_long:
            return None
        ways = "cut_turns or drop" if self._settings.on_too_long == "error" else "drop"
        raised = ", or raise max_seq_length" if self.limit < self._tokenizer.max_length else ""
        return f"for rows that are too long, set on_too_long to {ways}{raised}"

    def _note(self, text: str) -> None:
        self._report({"event": "note", "text": text})


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
