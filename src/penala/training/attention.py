"""Causal attention over flat rows: documents never see one another, and no T x T table is kept for the backward pass.

Shapes: T = flat rows, N = query heads, M = key heads, G = N / M, H = width of a head; P = rows of the padded form, in
which each group of B documents has B * L rows, L being its longest document; S = L + the rows of the shared prefix.
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
class Heads:
    """How a row of the fused query, key and value projection is cut."""

    num_queries: int
    num_keys: int
    width: int

    @property
    def per_key(self) -> int:
        return self.num_queries // self.num_keys


@dataclass(frozen=True, slots=True)
class Group:
    """Documents attended in one batched product: rows `start` to `start + num_documents * length` of the padded form.

    Each of them sees the first `prefix` flat rows, then its own rows up to the query. Padding stands behind a
    document's rows, so that only padding sees it.
    """

    start: int
    num_documents: int
    length: int
    prefix: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.num_documents * self.length)


@dataclass(frozen=True, slots=True)
class Packing:
    """Flat rows and their padded form."""

    groups: Sequence[Group]
    padded: Tensor  # (P): the flat row at each padded row; T at padding
    places: Tensor  # (T): the padded row of each flat row


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, packing: Packing, heads: Heads) -> Tensor:
    """Rotate queries and keys, attend -> (T, N * H).

    `qkv` is (T, (N + 2 M) * H), in the order of queries, keys, values; `cos` and `sin` are (T, 1, H / 2).
    """
    mixed: Tensor = _Attention.apply(qkv, cos, sin, packing, heads)  # type: ignore[no-untyped-call]
    return mixed


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Turn each pair (x[i], x[i + H / 2]) by its angle into `out` (arXiv 2104.09864, in the half-split order of Llama)."""
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, packing: Packing, heads: Heads) -> Tensor:
        num_rotated = heads.num_queries + heads.num_keys
        rows = qkv.view(-1, heads.num_queries + 2 * heads.num_keys, heads.width)
        num_rows = rows.shape[0]
        turned = rows.new_empty(num_rows + 1, *rows.shape[1:])
        rotate(rows[:, :num_rotated], cos, sin, out=turned[:num_rows, :num_rotated])
        turned[:num_rows, num_rotated:] = rows[:, num_rotated:]
        turned[num_rows] = 0  # what padding reads
        turned[:, : heads.num_queries] *= heads.width**-0.5
        padded = turned.index_select(0, packing.padded)
        mixed = padded.new_empty(padded.shape[0], heads.num_queries, heads.width)
        for group in packing.groups:
            queries, keys, values = _operands(padded, turned, group, heads)
            mixed_group = torch.empty_like(queries)
            for block, seen in _blocks(group, heads):
                weights = _weights(queries[:, block], keys[:, :seen], heads)
                mixed_group[:, block] = torch.bmm(weights, values[:, :seen])
            _by_head(mixed[group.rows], group, heads).copy_(_as_heads(mixed_group, group, heads))
        ctx.save_for_backward(turned, cos, sin)
        ctx.packing, ctx.heads = packing, heads
        return mixed.index_select(0, packing.places).flatten(1)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Score each block again instead of keeping its weights."""
        turned, cos, sin = ctx.saved_tensors
        packing: Packing = ctx.packing
        heads: Heads = ctx.heads
        num_queries, num_rotated = heads.num_queries, heads.num_queries + heads.num_keys
        d_out = d_out.view(-1, num_queries, heads.width)
        d_mixed = torch.cat((d_out, torch.zeros_like(d_out[:1]))).index_select(0, packing.padded)
        padded = turned.index_select(0, packing.padded)
        d_padded = torch.empty_like(padded)
        # the keys and values of the prefix are seen by many documents
        num_shared = max(group.prefix for group in packing.groups)
        d_shared = d_out.new_zeros(2, heads.num_keys, num_shared, heads.width, dtype=torch.float32)
        for group in packing.groups:
            operands = _operands(padded, turned, group, heads)
            d_group = _by_head(d_mixed[group.rows], group, heads).reshape(operands[0].shape)
            d_queries, d_keys, d_values = _block_gradients(*operands, d_group, group, heads)
            d_rows = d_padded[group.rows]
            _by_head(d_rows[:, :num_queries], group, heads).copy_(_as_heads(d_queries, group, heads))
            for number, d_seen in enumerate((d_keys, d_values)):
                d_seen = d_seen.view(group.num_documents, heads.num_keys, -1, heads.width)
                first = num_queries + number * heads.num_keys
                d_own = d_rows[:, first : first + heads.num_keys].view(group.num_documents, group.length, -1, heads.width)
                d_own.copy_(d_seen[:, :, group.prefix :].transpose(1, 2))
                d_shared[number, :, : group.prefix] += d_seen[:, :, : group.prefix].sum(dim=0)
        d_rows = d_padded.index_select(0, packing.places)
        d_rows[:num_shared, num_queries:] += d_shared.flatten(0, 1).transpose(0, 1).to(d_rows.dtype)
        d_rows[:, :num_queries] *= heads.width**-0.5
        d_qkv = torch.empty_like(d_rows)
        rotate(d_rows[:, :num_rotated], cos, -sin, out=d_qkv[:, :num_rotated])
        d_qkv[:, num_rotated:] = d_rows[:, num_rotated:]
        return d_qkv.flatten(1), None, None, None, None


def _block_gradients(
    queries: Tensor, keys: Tensor, values: Tensor, d_mixed: Tensor, group: Group, heads: Heads
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the operands; those of keys and values in float32, since they are sums over blocks."""
    d_queries = torch.empty_like(queries)
    d_keys = torch.zeros_like(keys, dtype=torch.float32)
    d_values = torch.zeros_like(d_keys)
    for block, seen in _blocks(group, heads):
        weights = _weights(queries[:, block], keys[:, :seen], heads)
        d_block = d_mixed[:, block]
        d_values[:, :seen] += torch.bmm(weights.mT, d_block)
        d_weights = torch.bmm(d_block, values[:, :seen].mT)
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_queries[:, block] = torch.bmm(d_scores, keys[:, :seen])
        d_keys[:, :seen] += torch.bmm(d_scores.mT, queries[:, block])
    return d_queries, d_keys, d_values


def _blocks(group: Group, heads: Heads) -> Iterator[tuple[slice, int]]:
    """Yield the query rows of each block, as a slice over L * G, and the number of keys that its last query sees."""
    for start in range(0, group.length, BLOCK):
        end = min(group.length, start + BLOCK)
        yield slice(start * heads.per_key, end * heads.per_key), group.prefix + end


def _weights(queries: Tensor, keys: Tensor, heads: Heads) -> Tensor:
    """Return the causal attention weights (B * M, rows * G, S) of a block, whose last query sees the last key."""
    scores = torch.bmm(queries, keys.mT)
    num_rows = queries.shape[1] // heads.per_key
    scores[:, :, -num_rows:] += _unseen(heads.per_key, scores.dtype)[: queries.shape[1], :num_rows]
    return torch.softmax(scores, dim=-1)


@cache
def _unseen(per_key: int, dtype: torch.dtype) -> Tensor:
    """Return (BLOCK * G, BLOCK): minus infinity where the key comes after the query; its corner serves a shorter block."""
    table = torch.full((BLOCK, BLOCK), float("-inf"), dtype=dtype).triu(1)
    return table.repeat_interleave(per_key, dim=0)


def _operands(padded: Tensor, turned: Tensor, group: Group, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B * M, L * G, H), keys and values (B * M, S, H) of a group, each contiguous."""
    num_queries, num_keys, prefix = heads.num_queries, heads.num_keys, group.prefix
    rows = padded[group.rows]
    queries = _by_head(rows[:, :num_queries], group, heads).reshape(group.num_documents * num_keys, -1, heads.width)
    seen = rows.new_empty(2, group.num_documents, num_keys, prefix + group.length, heads.width)
    own = rows[:, num_queries:].view(group.num_documents, group.length, 2, num_keys, heads.width)
    seen[:, :, :, prefix:] = own.permute(2, 0, 3, 1, 4)
    shared = turned[:prefix, num_queries:].view(prefix, 2, 1, num_keys, heads.width)
    seen[:, :, :, :prefix] = shared.permute(1, 2, 3, 0, 4)
    keys, values = seen.flatten(1, 2)
    return queries, keys, values


def _by_head(rows: Tensor, group: Group, heads: Heads) -> Tensor:
    """View (B * L, N, H) as (B, M, L, G, H): query heads that share a key head go into one product."""
    split = rows.view(group.num_documents, group.length, heads.num_keys, heads.per_key, heads.width)
    return split.transpose(1, 2)


def _as_heads(mixed: Tensor, group: Group, heads: Heads) -> Tensor:
    """View (B * M, L * G, H) as (B, M, L, G, H)."""
    return mixed.view(group.num_documents, heads.num_keys, group.length, heads.per_key, heads.width)
