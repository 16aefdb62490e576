"""Causal attention over flat rows: documents never see one another, and no T x T table is kept for the backward pass.

Shapes: T = rows of the micro-batch, N = query heads, M = key heads, G = N / M, H = width of a head,
B = documents of a group, L = query rows of each (padded), S = keys of each: the shared prefix, then its own rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Query rows that are scored at once. 64 to 256 were tried for 256 to 4096 rows: 128 wins or ties everywhere.
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Group:
    """Documents that are attended in one batched product, padded on the right to the longest.

    `queries` (B * L) and `keys` (B * S) point at flat rows, padding at row 0; `kept` are the places in `queries` that
    are no padding. The last query of a document sees its last key, so padding, being last, is seen by padding only.
    """

    num_documents: int
    queries: Tensor
    keys: Tensor
    kept: Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """How a row of the fused query, key and value projection is cut."""

    num_queries: int
    num_keys: int
    width: int

    @property
    def size(self) -> int:
        return (self.num_queries + 2 * self.num_keys) * self.width


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, groups: Sequence[Group], heads: Heads) -> Tensor:
    """Rotate queries and keys, attend -> (T, N * H).

    `qkv` is (T, (N + 2 M) * H), in the order of queries, keys, values; `cos` and `sin` are (T, 1, H / 2).
    """
    mixed: Tensor = _Attention.apply(qkv, cos, sin, groups, heads)  # type: ignore[no-untyped-call]
    return mixed


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Turn each pair (x[i], x[i + H / 2]) by its angle into `out` (arXiv 2104.09864, in the half-split order of Llama)."""
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, groups: Sequence[Group], heads: Heads) -> Tensor:
        num_rotated = heads.num_queries + heads.num_keys
        rows = qkv.view(-1, heads.num_queries + 2 * heads.num_keys, heads.width)
        turned = torch.empty_like(rows)
        rotate(rows[:, :num_rotated], cos, sin, out=turned[:, :num_rotated])
        turned[:, num_rotated:] = rows[:, num_rotated:]
        turned[:, : heads.num_queries] *= heads.width**-0.5
        out = qkv.new_empty(rows.shape[0], heads.num_queries * heads.width)
        for group in groups:
            queries, keys, values = _gather(turned, group, heads)
            mixed = torch.empty_like(queries)
            for block, seen in _blocks(group, heads):
                weights = _weights(queries[:, block], keys[:, :seen], heads)
                mixed[:, block] = torch.bmm(weights, values[:, :seen])
            out[group.queries[group.kept]] = _ungroup(mixed, group, heads).flatten(1)[group.kept]
        ctx.save_for_backward(turned, cos, sin)
        ctx.groups, ctx.heads = groups, heads
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Score each block again instead of keeping its weights."""
        turned, cos, sin = ctx.saved_tensors
        heads: Heads = ctx.heads
        num_rotated = heads.num_queries + heads.num_keys
        d_rows = torch.zeros_like(turned)
        for group in ctx.groups:
            queries, keys, values = _gather(turned, group, heads)
            d_mixed = d_out.new_zeros(group.queries.shape[0], d_out.shape[1])
            d_mixed[group.kept] = d_out[group.queries[group.kept]]
            d_mixed = _by_head(d_mixed.view(-1, heads.num_queries, heads.width), group, heads)
            # sums over blocks, in float32 since bfloat16 would lose the small ones
            d_keys = torch.zeros_like(keys, dtype=torch.float32)
            d_values = torch.zeros_like(d_keys)
            d_queries = torch.empty_like(queries)
            for block, seen in _blocks(group, heads):
                weights = _weights(queries[:, block], keys[:, :seen], heads)
                d_block = d_mixed[:, block]
                d_values[:, :seen] += torch.bmm(weights.mT, d_block)
                d_weights = torch.bmm(d_block, values[:, :seen].mT)
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                d_queries[:, block] = torch.bmm(d_scores, keys[:, :seen])
                d_keys[:, :seen] += torch.bmm(d_scores.mT, queries[:, block])
            # a row is the query of one document, but a shared prefix is seen by all
            d_rows[group.queries[group.kept], : heads.num_queries] = _ungroup(d_queries, group, heads)[group.kept]
            d_seen = torch.cat((_per_key(d_keys, group), _per_key(d_values, group)), dim=1)
            d_rows[:, heads.num_queries :].index_add_(0, group.keys, d_seen.to(d_rows.dtype))
        d_rows[:, : heads.num_queries] *= heads.width**-0.5
        d_qkv = torch.empty_like(d_rows)
        rotate(d_rows[:, :num_rotated], cos, -sin, out=d_qkv[:, :num_rotated])
        d_qkv[:, num_rotated:] = d_rows[:, num_rotated:]
        return d_qkv.flatten(1), None, None, None, None


def _blocks(group: Group, heads: Heads) -> Iterator[tuple[slice, int]]:
    """Yield the query rows of each block, as a slice over L * G, and the number of keys that its last query sees."""
    per_key = heads.num_queries // heads.num_keys
    length = group.queries.shape[0] // group.num_documents
    prefix = group.keys.shape[0] // group.num_documents - length
    for start in range(0, length, BLOCK):
        end = min(length, start + BLOCK)
        yield slice(start * per_key, end * per_key), prefix + end


def _weights(queries: Tensor, keys: Tensor, heads: Heads) -> Tensor:
    """Return the causal attention weights of a block (B * M, L * G, S), whose last query sees the last key."""
    per_key = heads.num_queries // heads.num_keys
    length = queries.shape[1] // per_key
    scores = torch.bmm(queries, keys.mT)
    scores[:, :, -length:] += _unseen(per_key, scores.dtype)[: length * per_key, :length]
    return torch.softmax(scores, dim=-1)


@cache
def _unseen(per_key: int, dtype: torch.dtype) -> Tensor:
    """Return (BLOCK * G, BLOCK): minus infinity where the key comes after the query; its corner serves a shorter block."""
    table = torch.full((BLOCK, BLOCK), float("-inf"), dtype=dtype).triu(1)
    return table.repeat_interleave(per_key, dim=0)


def _gather(turned: Tensor, group: Group, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B * M, L * G, H), keys and values (B * M, S, H) of the group, each contiguous."""
    num_queries, num_keys = heads.num_queries, heads.num_keys
    queries = _by_head(turned[:, :num_queries][group.queries], group, heads)
    seen = turned[:, num_queries:][group.keys]
    seen = seen.view(group.num_documents, -1, 2, num_keys, heads.width).permute(2, 0, 3, 1, 4)
    keys, values = seen.reshape(2, group.num_documents * num_keys, -1, heads.width)
    return queries, keys, values


def _by_head(rows: Tensor, group: Group, heads: Heads) -> Tensor:
    """Return (B * L, N, H) as (B * M, L * G, H): query heads that share a key head lie in one product."""
    documents, num_keys = group.num_documents, heads.num_keys
    split = rows.view(documents, -1, num_keys, heads.num_queries // num_keys, heads.width)
    return split.transpose(1, 2).reshape(documents * num_keys, -1, heads.width)


def _ungroup(mixed: Tensor, group: Group, heads: Heads) -> Tensor:
    """Undo `_by_head`."""
    documents, num_keys = group.num_documents, heads.num_keys
    split = mixed.view(documents, num_keys, -1, heads.num_queries // num_keys, heads.width)
    return split.transpose(1, 2).reshape(-1, heads.num_queries, heads.width)


def _per_key(d_keys: Tensor, group: Group) -> Tensor:
    """Return (B * M, S, H) as (B * S, M, H)."""
    split = d_keys.view(group.num_documents, -1, *d_keys.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)
