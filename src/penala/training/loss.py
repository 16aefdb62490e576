"""The loss of a model on prepared rows, forward only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from penala.training.batches import Document, micro_batches, read_documents
from penala.training.model import Model, arithmetic, open_model

EVALUATION_TOKENS = 2048  # in a micro-batch

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class LossSum:
    """Cross entropy in nats, summed over so many supervised tokens."""

    nats: float
    tokens: int


def loss_of(folder: Path, rows: Path, report: Report) -> LossSum:
    """Return the loss of the model in `folder` on the prepared split in the file `rows`, in this machine's arithmetic.

    Raises ModelError for a folder that is no whole model, TrainingError for a file that is no prepared split.
    """
    documents = read_documents(rows)
    model, _ = open_model(folder, None, arithmetic("16"))
    return loss_on(model, documents, report)


def loss_on(
    model: Model, documents: Sequence[Document], report: Report, *, max_documents: int | None = None
) -> LossSum:
    """Return the loss of an open model on documents, at most `max_documents` at once; no dropout, no gradients."""
    nats, tokens, done = 0.0, 0, 0
    with torch.no_grad():
        cut = micro_batches(documents, max_tokens=EVALUATION_TOKENS, padded=model.padded, max_documents=max_documents)
        for batch in cut:
            nats += float(model.loss_sum(batch, training=False))
            tokens += sum(document.num_supervised for document in batch)
            done += len(batch)
            report({"event": "progress", "done": done, "total": len(documents), "unit": "rows evaluated"})
    return LossSum(nats, tokens)
