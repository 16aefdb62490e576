"""The documents of a micro-batch on flat rows: no padding, and a prefix that all share only once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penala.training.attention import Group
from penala.training.batches import Document

# Up to here a padded product over many documents beats one product for each
SHORT = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """T flat rows: the shared prefix, if any, then each document's own rows.

    Rows after a document's last supervised position are left out, since nothing that counts depends on them.
    """

    ids: Tensor  # (T)
    positions: Tensor  # (T), counted from 0 in each document
    groups: tuple[Group, ...]
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
    groups = _groups(spans, prefix)
    return Layout(torch.tensor(ids), torch.tensor(positions), groups, torch.tensor(predicting), torch.tensor(targets))


def shared_prefix(documents: Sequence[Document]) -> int:
    """Return how many leading tokens all documents share before anything is predicted; 0 for a single document.

    Under causal attention the rows of an equal prefix are equal, so that computing them once is exact.
    """
    if len(documents) < 2:
        return 0
    limit = min(document.supervised[0] - 1 for document in documents)
    first, last = min(document.ids for document in documents), max(document.ids for document in documents)
    return next((t for t in range(limit) if first[t] != last[t]), limit)


def _groups(spans: Sequence[tuple[int, int]], prefix: int) -> tuple[Group, ...]:
    """Group the documents' own rows for attention.

    Short documents of like length (within a power of two) are one padded product, in which each repeats the queries of
    the prefix: cheaper than one more product for so few rows. A long document goes alone.
    """
    short: dict[int, list[tuple[int, int]]] = {}
    long: list[tuple[int, int]] = []
    for start, end in spans:
        length = prefix + end - start
        if length > SHORT:
            long.append((start, end))
        else:
            short.setdefault(max(6, (length - 1).bit_length()), []).append((start, end))
    groups = [_padded(members, prefix, keeps_prefix=not number) for number, members in enumerate(short.values())]
    if prefix and not groups:
        groups.append(_alone((0, prefix), 0))
    return (*groups, *(_alone(span, prefix) for span in long))


def _padded(spans: Sequence[tuple[int, int]], prefix: int, *, keeps_prefix: bool) -> Group:
    """Pad whole documents; with `keeps_prefix`, the first answers the queries of the prefix for all."""
    own = torch.arange(max(end - start for start, end in spans)) + torch.tensor([[start] for start, _ in spans])
    is_own = own < torch.tensor([[end] for _, end in spans])
    rows = torch.cat((torch.arange(prefix).expand(len(spans), -1), own.where(is_own, 0)), dim=1).flatten()
    is_kept = torch.cat((torch.zeros(len(spans), prefix, dtype=torch.bool), is_own), dim=1)
    is_kept[0, :prefix] = keeps_prefix
    return Group(len(spans), rows, rows, is_kept.flatten().nonzero().flatten())


def _alone(span: tuple[int, int], prefix: int) -> Group:
    own = torch.arange(*span)
    return Group(1, own, torch.cat((torch.arange(prefix), own)), torch.arange(len(own)))
