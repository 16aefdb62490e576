"""Which conversations make an optimizer step, and how the step is cut into micro-batches. Needs no torch."""

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from penala.errors import TokensError, TrainingError
from penala.tokens.prepared import PreparedRows

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Document:
    """A rendered conversation: token ids, and labels that repeat the id where it is supervised and are -100 elsewhere.

    Position t predicts label t + 1, so the first label is never used.
    """

    ids: "array[int]"
    labels: "array[int]"

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


class Documents(Sequence[Document]):
    """The documents of a prepared split. Each is made when it is looked at, so that no split is held in memory."""

    def __init__(self, rows: PreparedRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> Document: ...
    @overload
    def __getitem__(self, number: slice) -> list[Document]: ...
    def __getitem__(self, number: int | slice) -> Document | list[Document]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        found, supervised = self._rows.row(range(len(self))[number])
        ids = array("i", found.tobytes())
        labels = array("i", [IGNORED]) * len(ids)
        places = supervised.tolist()
        for start, stop in zip(places[::2], places[1::2], strict=True):
            labels[start:stop] = ids[start:stop]
        return Document(ids, labels)

    @cached_property
    def num_supervised(self) -> int:
        """Positions that are predicted, of all documents."""
        total = 0
        for _, places in self._rows.supervised:
            total += int((places[1::2] - np.maximum(places[::2], 1)).sum())  # nothing comes before the first position
        return total

    @cached_property
    def num_rows(self) -> list[int]:
        """`num_rows` of each document."""
        found: list[int] = []
        for borders, places in self._rows.supervised:
            lasts = np.zeros(len(borders) - 1, np.int32)
            has_any = borders[1:] > borders[:-1]
            lasts[has_any] = places[borders[1:][has_any] - 1] - 1
            found += lasts.tolist()
        return found


def read_documents(path: Path) -> Documents:
    """Open a prepared split; raise TrainingError that names the file and the row."""
    try:
        return Documents(PreparedRows(path))
    except TokensError as error:
        raise TrainingError(error.what, where=error.where, fix=error.fix) from None


def rows_of(documents: Sequence[Document]) -> list[int]:
    """Return `num_rows` of each document."""
    if isinstance(documents, Documents):
        return documents.num_rows
    return [document.num_rows for document in documents]


def epoch_steps(num_documents: int, effective_batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the documents of each optimizer step of an epoch, by index: a shuffle that (seed, epoch) decide.

    Every document comes once; the last step takes what is left.
    """
    order = list(range(num_documents))
    random.Random(f"penala {seed} {epoch}").shuffle(order)  # a text seed means the same in every Python version
    return [order[start : start + effective_batch] for start in range(0, num_documents, effective_batch)]


def micro_batches(
    documents: Sequence[Document], *, max_tokens: int, padded: bool = False, max_documents: int | None = None
) -> Iterator[list[Document]]:
    """Cut the documents of a step into micro-batches of at most `max_tokens` rows, longest documents first.

    The sum over the micro-batches is the same for every cut; a document longer than the limit goes alone. With
    `padded`, each document costs as many rows as the longest beside it.
    """
    lengths = rows_of(documents)
    batch: list[int] = []
    rows = 0
    for number in sorted(range(len(documents)), key=lambda number: -lengths[number]):
        cost = lengths[batch[0] if padded and batch else number]
        if batch and (rows + cost > max_tokens or len(batch) == max_documents):
            yield [documents[n] for n in batch]
            batch, rows = [], 0
            cost = lengths[number]
        batch.append(number)
        rows += cost
    if batch:
        yield [documents[n] for n in batch]
