"""The documents of a micro-batch on flat rows: no padding, and a prefix that all share only once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penala.training.attention import Group, Packing
from penala.training.batches import Document

# Up to here a padded product over many documents beats one product for each
SHORT = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """T flat rows: the shared prefix, if any, then each document's own rows.

    Rows after a document's last supervised position are left out, since nothing that counts depends on them.
    """

    ids: Tensor  # (T)
    padded_positions: Tensor  # (P), counted from 0 in each document, of the padded form
    packing: Packing  # who attends to whom
    predicting: Tensor  # rows whose next token is supervised, in order
    targets: Tensor  # that token, one for each of `predicting`


def lay_out(documents: Sequence[Document], *, share_prefix: bool = True) -> Layout | None:
    """Lay the documents out; return None when no position of any is supervised."""
    used = [document for document in documents if document.num_rows]
    if not used:
        return None
    prefix = shared_prefix(used) if share_prefix else 0
    ids = list(used[0].ids[:prefix])
    positions = list(range(prefix))
    predicting: list[int] = []
    targets: list[int] = []
    spans = []
    for document in used:
        start = len(ids)
        ids += document.ids[prefix : document.num_rows]
        positions += range(prefix, document.num_rows)
        # position t is predicted by the row of position t - 1
        predicting += [start - prefix + t - 1 for t in document.supervised]
        targets += [document.ids[t] for t in document.supervised]
        spans.append((start, len(ids)))
    packing = _pack(spans, prefix, len(ids))
    in_document = torch.tensor([*positions, 0])[packing.padded]
    return Layout(torch.tensor(ids), in_document, packing, torch.tensor(predicting), torch.tensor(targets))


def shared_prefix(documents: Sequence[Document]) -> int:
    """Return how many leading tokens all documents share before anything is predicted; 0 for a single document.

    Under causal attention the rows of an equal prefix are equal, so that computing them once is exact.
    """
    if len(documents) < 2:
        return 0
    limit = min(document.supervised[0] - 1 for document in documents)
    first, last = min(document.ids for document in documents), max(document.ids for document in documents)
    return next((t for t in range(limit) if first[t] != last[t]), limit)


def _pack(spans: Sequence[tuple[int, int]], prefix: int, num_rows: int) -> Packing:
    """Group the documents' own rows for attention; the shared prefix before them attends to itself.

    Short documents of like length (within a power of two) are one padded product, a long one goes alone.
    """
    members: dict[int, list[tuple[int, int]]] = {}
    for number, (start, end) in enumerate(spans):
        length = end - start
        members.setdefault(number if length > SHORT else -max(63, length - 1).bit_length(), []).append((start, end))
    groups: list[Group] = []
    padded: list[int] = []
    if prefix:
        groups.append(Group(0, 1, prefix, 0))
        padded += range(prefix)
    for together in members.values():
        length = max(end - start for start, end in together)
        groups.append(Group(len(padded), len(together), length, prefix))
        for start, end in together:
            padded += [*range(start, end), *[num_rows] * (length - (end - start))]
    rows = torch.tensor(padded)
    places = torch.empty(num_rows + 1, dtype=torch.long)
    places[rows] = torch.arange(len(padded))
    return Packing(groups, rows, places[:num_rows])
