"""Attention over flat rows against torch's own, one document at a time."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from penala.training.attention import Angles, Group, Heads, Packing, attend

WIDTH, THETA = 8, 1e4


def packed(lengths, *, prefix=0):
    """Put documents of these own lengths behind a prefix: one padded group after the prefix's own."""
    num_rows, longest = prefix + sum(lengths), max(lengths)
    groups, padded = ([Group(0, 1, prefix, 0)], list(range(prefix))) if prefix else ([], [])
    groups.append(Group(len(padded), len(lengths), longest, prefix))
    start = prefix
    for length in lengths:
        padded += [*range(start, start + length), *[num_rows] * (longest - length)]
        start += length
    places = torch.empty(num_rows + 1, dtype=torch.long)
    places[torch.tensor(padded)] = torch.arange(len(padded))
    return Packing(groups, torch.tensor(padded), places[:num_rows])


def one_by_one(qkv, lengths, heads, *, prefix=0):
    """Attend with torch's own function and Llama's formula of rotation; return the rows in flat order."""
    ends = torch.tensor([prefix, *lengths]).cumsum(0).tolist()
    own_rows = [torch.arange(start, end) for start, end in pairwise(ends)]
    shared = torch.arange(prefix)
    out = [causal(qkv[shared], heads)] if prefix else []
    out += [causal(qkv[torch.cat((shared, own))], heads)[prefix:] for own in own_rows]
    return torch.cat(out)


def causal(qkv, heads):
    """Return the attention of one document, counted from position 0."""
    queries, keys = heads.num_queries * heads.width, heads.num_keys * heads.width
    angles = exact_angles(torch.arange(len(qkv)))
    cos, sin = torch.cat((angles.cos, angles.cos), dim=-1), torch.cat((angles.sin, angles.sin), dim=-1)
    q, k, v = (part.unflatten(1, (-1, WIDTH)).transpose(0, 1) for part in qkv.split([queries, keys, keys], dim=1))

    def turned(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    out = functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
    return out.transpose(0, 1).flatten(1)


def exact_angles(positions):
    """Return the angles in float64."""
    angles = torch.outer(positions.double(), THETA ** -(torch.arange(0, WIDTH, 2).double() / WIDTH))
    cos, sin = angles.cos(), angles.sin()
    return Angles(cos, sin, cos * WIDTH**-0.5, sin * WIDTH**-0.5)


@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("lengths", [[7], [3, 9, 1], [130, 260]])
def test_attention_and_its_gradient_are_those_of_torch(lengths, num_queries, num_keys, prefix):
    """In float64, so that 1e-10 is rounding: ragged documents, grouped heads, a shared prefix, several blocks."""
    torch.manual_seed(0)
    heads = Heads(num_queries, num_keys, WIDTH)
    num_rows = prefix + sum(lengths)
    qkv = torch.randn(num_rows, (num_queries + 2 * num_keys) * WIDTH, dtype=torch.float64, requires_grad=True)
    packing = packed(lengths, prefix=prefix)
    positions = torch.tensor([*range(prefix), *(prefix + n for length in lengths for n in range(length)), 0])
    angles = exact_angles(positions[packing.padded])
    out = attend(qkv, angles, packing, heads)
    expected = one_by_one(qkv, lengths, heads, prefix=prefix)
    weight = torch.randn_like(out)

    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad((out * weight).sum(), qkv)[0],
        torch.autograd.grad((expected * weight).sum(), qkv)[0],
        # keys and values gather their gradient in float32
        atol=1e-5,
        rtol=1e-5,
    )


def test_angles_are_those_of_the_positions():
    """Cosine and sine of position * theta^(-2 i / H), and once more scaled for the queries."""
    positions = torch.tensor([0, 3, 700])
    found_angles = Angles.at(positions, theta=THETA, width=WIDTH, dtype=torch.float32)
    for found, expected in zip(found_angles, exact_angles(positions), strict=True):
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)  # float32 at an angle of 700


def test_a_later_token_changes_no_earlier_row():
    """Attention is causal, and a document is blind to the one beside it."""
    heads, packing = Heads(2, 1, WIDTH), packed([4, 6])
    angles = Angles.at(torch.zeros(12), theta=THETA, width=WIDTH, dtype=torch.float32)
    qkv = torch.randn(10, 4 * WIDTH, generator=torch.Generator().manual_seed(0))
    changed = qkv.clone()
    changed[7] += 1.0  # the fourth row of the second document
    before, after = attend(qkv, angles, packing, heads), attend(changed, angles, packing, heads)

    assert torch.equal(before[:7], after[:7])
    assert not torch.isclose(before[7:], after[7:]).all(dim=1).any()
