"""Which conversations make an optimizer step, and how the step is cut into micro-batches. Needs no torch."""

import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from penala.errors import TrainingError

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Document:
    """A rendered conversation: token ids, and labels that repeat the id where it is supervised and are -100 elsewhere.

    Position t predicts label t + 1, so the first label is never used.
    """

    ids: "array[int]"
    labels: "array[int]"

    @classmethod
    def from_row(cls, row: Mapping[str, Sequence[int]], *, where: str | None = None) -> "Document":
        """Read {"input_ids": [...], "labels": [...]}; raise TrainingError for labels that are not a mask of the ids."""
        ids, labels = array("i", row["input_ids"]), array("i", row["labels"])
        if len(ids) != len(labels):
            raise TrainingError(f"{len(ids)} input_ids but {len(labels)} labels", where=where, fix="prepare it again")
        for position, (token, label) in enumerate(zip(ids, labels, strict=True)):
            if label not in (IGNORED, token):
                what = f"labels[{position}] is {label}, neither -100 nor input_ids[{position}] = {token}"
                raise TrainingError(what, where=where, fix="prepare the data again")
        return cls(ids, labels)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def supervised(self) -> tuple[int, ...]:
        """The positions that are predicted, from the position before each."""
        return tuple(t for t in range(1, len(self.labels)) if self.labels[t] != IGNORED)

    @property
    def num_supervised(self) -> int:
        return len(self.supervised)

    @property
    def num_rows(self) -> int:
        """Positions that matter to the loss: causal attention never looks past the last one that predicts."""
        return self.supervised[-1] if self.supervised else 0


class _Row(msgspec.Struct):
    input_ids: list[int]
    labels: list[int]


def read_documents(path: Path) -> list[Document]:
    """Read a prepared split, one JSON object a line; raise TrainingError that names the file and the line."""
    decode = msgspec.json.Decoder(_Row).decode
    documents = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                row = decode(line)
                where = f"{path}:{number}"
                documents.append(Document.from_row({"input_ids": row.input_ids, "labels": row.labels}, where=where))
    except FileNotFoundError:
        raise TrainingError("there is no such file", where=str(path), fix="prepare the data again") from None
    except msgspec.MsgspecError as error:
        raise TrainingError(str(error), where=f"{path}:{len(documents) + 1}", fix="prepare the data again") from None
    return documents


def epoch_steps(num_documents: int, effective_batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the documents of each optimizer step of an epoch, by index: a shuffle that (seed, epoch) decide.

    Every document comes once; the last step takes what is left.
    """
    order = list(range(num_documents))
    random.Random(f"penala {seed} {epoch}").shuffle(order)  # a text seed means the same in every Python version
    return [order[start : start + effective_batch] for start in range(0, num_documents, effective_batch)]


def micro_batches(
    documents: Iterable[Document], *, max_tokens: int, padded: bool = False, max_documents: int | None = None
) -> Iterator[list[Document]]:
    """Cut the documents of a step into micro-batches of at most `max_tokens` rows, longest documents first.

    The sum over the micro-batches is the same for every cut; a document longer than the limit goes alone. With
    `padded`, each document costs as many rows as the longest beside it.
    """
    batch: list[Document] = []
    rows = 0
    for document in sorted(documents, key=lambda document: -document.num_rows):
        cost = batch[0].num_rows if padded and batch else document.num_rows
        if batch and (rows + cost > max_tokens or len(batch) == max_documents):
            yield batch
            batch, rows = [], 0
            cost = document.num_rows
        batch.append(document)
        rows += cost
    if batch:
        yield batch
