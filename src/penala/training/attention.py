"""Causal attention over flat rows: documents never see one another, and no T x T table is kept for the backward pass.

Shapes: T = flat rows, N = query heads, M = key heads, G = N / M, H = width of a head; P = rows of the padded form, in
which each group of B documents has B * L rows, L being its longest document; S = L + the rows of the shared prefix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Query rows that are scored at once. 64 to 256 were tried for 256 to 4096 rows: 128 wins or ties everywhere.
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Heads:
    """How a row of the fused query, key and value projection is cut: N queries, M keys, M values, each H wide."""

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
    """Flat rows and their padded form. When documents share a prefix, it is the first group."""

    groups: Sequence[Group]
    padded: Tensor  # (P): the flat row at each padded row; T at padding
    places: Tensor  # (T): the padded row of each flat row


class Angles(NamedTuple):
    """Cosine and sine of the rotary angles, (P, H / 2) each; once more times 1 / sqrt(H) for the queries."""

    cos: Tensor
    sin: Tensor
    query_cos: Tensor
    query_sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, *, theta: float, width: int, dtype: torch.dtype) -> "Angles":
        """Return the angles position * theta^(-2 i / H) (arXiv 2104.09864)."""
        frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.outer(positions.float(), frequencies)
        cos, sin = angles.cos(), angles.sin()
        return cls(*(table.to(dtype) for table in (cos, sin, cos * width**-0.5, sin * width**-0.5)))


def attend(qkv: Tensor, angles: Angles, packing: Packing, heads: Heads) -> Tensor:
    """Rotate queries and keys, attend -> (T, N * H). `qkv` is (T, (N + 2 M) * H): queries, keys, values."""
    mixed: Tensor = _Attention.apply(qkv, angles, packing, heads)  # type: ignore[no-untyped-call]  # torch types no apply
    return mixed


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Turn each pair (x[i], x[i + H / 2]) by its angle into `out` (the half-split order of Llama)."""
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, angles: Angles, packing: Packing, heads: Heads) -> Tensor:
        padded = qkv.index_select(0, packing.padded.clamp(max=qkv.shape[0] - 1))
        mixed = qkv.new_empty(padded.shape[0], heads.num_queries, heads.width)
        operands: list[tuple[Tensor, Tensor]] = []
        for group in packing.groups:
            shared = operands[0][1] if group.prefix else None
            queries, seen = _operands(padded, angles, group, heads, shared)
            operands.append((queries, seen))
            mixed_group = torch.empty_like(queries)
            for block, num_seen in _blocks(group, heads):
                keys, values = seen.flatten(1, 2)[:, :, :num_seen]
                torch.bmm(_weights(queries[:, block], keys, heads), values, out=mixed_group[:, block])
            _query_view(mixed, group, heads).copy_(_split(mixed_group, group, heads))
        ctx.save_for_backward(*(tensor for pair in operands for tensor in pair))
        ctx.angles, ctx.packing, ctx.heads = angles, packing, heads
        return mixed.index_select(0, packing.places).flatten(1)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Score each block again instead of keeping its weights."""
        angles: Angles = ctx.angles
        packing: Packing = ctx.packing
        heads: Heads = ctx.heads
        operands = ctx.saved_tensors
        d_out = torch.cat((d_out, d_out.new_zeros(1, d_out.shape[1])))  # the last row is what padding reads
        d_mixed = d_out.index_select(0, packing.padded).unflatten(1, (-1, heads.width))
        d_padded = d_mixed.new_empty(d_mixed.shape[0], heads.num_queries + 2 * heads.num_keys, heads.width)
        d_shared: Tensor | None = None
        for number in reversed(range(len(packing.groups))):
            group = packing.groups[number]
            queries, seen = operands[2 * number : 2 * number + 2]
            d_group = _query_view(d_mixed, group, heads).reshape(queries.shape)
            d_queries, d_seen = _block_gradients(queries, seen, d_group, group, heads)
            if group.prefix:
                d_prefix = d_seen[:, :, :, : group.prefix].sum(dim=1, keepdim=True)
                d_shared = d_prefix if d_shared is None else d_shared + d_prefix
            elif d_shared is not None:  # this is the prefix itself
                d_seen = d_seen + d_shared
            _write_gradients(d_padded, d_queries, d_seen.to(d_out.dtype), angles, group, heads)
        return d_padded.index_select(0, packing.places).flatten(1), None, None, None


def _block_gradients(
    queries: Tensor, seen: Tensor, d_mixed: Tensor, group: Group, heads: Heads
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the operands; those of keys and values in float32, since they are sums over blocks."""
    keys, values = seen.flatten(1, 2)
    d_queries = torch.empty_like(queries)
    d_keys = d_values = keys  # the last block comes first: it sees every key
    for block, num_seen in reversed(list(_blocks(group, heads))):
        weights = _weights(queries[:, block], keys[:, :num_seen], heads)
        d_block = d_mixed[:, block]
        d_weights = torch.bmm(d_block, values[:, :num_seen].mT)
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        torch.bmm(d_scores, keys[:, :num_seen], out=d_queries[:, block])
        d_block_values = torch.bmm(weights.mT, d_block).float()
        d_block_keys = torch.bmm(d_scores.mT, queries[:, block]).float()
        if d_keys is keys:
            d_keys, d_values = d_block_keys, d_block_values
        else:
            d_keys[:, :num_seen] += d_block_keys
            d_values[:, :num_seen] += d_block_values
    return d_queries, torch.stack((d_keys, d_values)).view(seen.shape)


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
    """Return (BLOCK * G, BLOCK): minus infinity where the key comes after the query; a corner serves a short block."""
    table = torch.full((BLOCK, BLOCK), float("-inf"), dtype=dtype).triu(1)
    return table.repeat_interleave(per_key, dim=0)


def _operands(
    padded: Tensor, angles: Angles, group: Group, heads: Heads, shared: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the scaled and rotated queries (B * M, L * G, H), and keys and values (2, B, M, S, H) of a group."""
    rows = padded.unflatten(1, (-1, heads.width))
    cos, sin, query_cos, query_sin = _group_angles(angles, group)
    queries = rows.new_empty(group.num_documents, heads.num_keys, group.length, heads.per_key, heads.width)
    rotate(_query_view(rows, group, heads), query_cos[..., None, :], query_sin[..., None, :], out=queries)
    seen = rows.new_empty(2, group.num_documents, heads.num_keys, group.prefix + group.length, heads.width)
    keys, values = _key_value_view(rows, group, heads)
    rotate(keys, cos, sin, out=seen[0, :, :, group.prefix :])
    seen[1, :, :, group.prefix :] = values
    if shared is not None:
        seen[:, :, :, : group.prefix] = shared
    return queries.flatten(2, 3).flatten(0, 1), seen


def _write_gradients(
    d_padded: Tensor, d_queries: Tensor, d_seen: Tensor, angles: Angles, group: Group, heads: Heads
) -> None:
    """Turn the gradients of a group's operands back and write them to its rows of `d_padded`."""
    cos, sin, query_cos, query_sin = _group_angles(angles, group)
    d_rows = _query_view(d_padded, group, heads)
    rotate(_split(d_queries, group, heads), query_cos[..., None, :], -query_sin[..., None, :], out=d_rows)
    d_keys, d_values = _key_value_view(d_padded, group, heads)
    rotate(d_seen[0, :, :, group.prefix :], cos, -sin, out=d_keys)
    d_values.copy_(d_seen[1, :, :, group.prefix :])


def _group_angles(angles: Angles, group: Group) -> list[Tensor]:
    """Return the angles of the group's rows as (B, 1, L, H / 2)."""
    return [table[group.rows].view(group.num_documents, 1, group.length, -1) for table in angles]


def _query_view(rows: Tensor, group: Group, heads: Heads) -> Tensor:
    """View the queries of padded rows (P, N or more, H) as (B, M, L, G, H): heads that share a key lie together."""
    queries = rows[group.rows, : heads.num_queries]
    view: Tensor = queries.unflatten(1, (heads.num_keys, -1)).unflatten(0, (-1, group.length)).transpose(1, 2)
    return view


def _key_value_view(rows: Tensor, group: Group, heads: Heads) -> Tensor:
    """View keys and values of padded rows (P, N + 2 M, H) as (2, B, M, L, H)."""
    keys_values = rows[group.rows, heads.num_queries :].unflatten(1, (2, -1)).unflatten(0, (-1, group.length))
    view: Tensor = keys_values.permute(2, 0, 3, 1, 4)
    return view


def _split(queries: Tensor, group: Group, heads: Heads) -> Tensor:
    """View (B * M, L * G, H) as (B, M, L, G, H)."""
    return queries.view(group.num_documents, heads.num_keys, group.length, heads.per_key, heads.width)
