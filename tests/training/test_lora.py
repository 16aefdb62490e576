"""Linear layers with LoRA in one product, against the formula written out."""

import pytest
import torch

from penala.training.lora import FusedLinear, LoraSpec


def fused(spec, *, dtype=torch.float64):
    """Two layers of 6 and 4 outputs over 5 inputs, with factors that are not zero."""
    generator = torch.Generator().manual_seed(0)
    layers = {"m.q_proj": torch.randn(6, 5, generator=generator), "m.k_proj": torch.randn(4, 5, generator=generator)}
    linear = FusedLinear(layers, spec, dtype)
    with torch.no_grad():
        for branch in linear.branches:
            branch.a.normal_(generator=generator)
            branch.b.normal_(generator=generator)
    return layers, linear


@pytest.mark.parametrize("targets", [(), ("q_proj",), ("m.k_proj",), ("v_proj",)])
def test_the_product_is_base_plus_scaled_branch(targets):
    """y = W x + (alpha / r) B A x, for the layers that are named; gradients too."""
    spec = LoraSpec(r=2, alpha=4.0, targets=targets)
    layers, linear = fused(spec)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    expected = []
    for name, weight in layers.items():
        y = x @ weight.double().mT
        for branch in linear.branches:
            if branch.name == name:
                y = y + 2.0 * (x @ branch.a.double().mT @ branch.b.double().mT)
        expected.append(y)
    y, whole = linear(x, training=True), torch.cat(expected, dim=1)
    wanted = [x, *(factor for branch in linear.branches for factor in (branch.a, branch.b))]

    assert {branch.name for branch in linear.branches} == {name for name in layers if spec.covers(name)}
    torch.testing.assert_close(y, whole)
    for found, reference in zip(
        torch.autograd.grad(y.square().sum(), wanted), torch.autograd.grad(whole.square().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(found, reference, atol=1e-5, rtol=1e-5)  # the factors are float32


def test_dropout_scales_what_it_keeps_and_spares_the_base():
    """On average nothing changes: x is kept with probability 1 - p and divided by it, before A only."""
    _, linear = fused(LoraSpec(r=2, alpha=2.0, dropout=0.25))
    x = torch.ones(4000, 5, dtype=torch.float64)
    torch.manual_seed(0)
    dropped, whole = linear(x, training=True), linear(x, training=False)

    assert not torch.equal(dropped, whole)
    # the mean of 4000 rows of variance about 2
    torch.testing.assert_close(dropped.mean(dim=0), whole.mean(dim=0), atol=0.15, rtol=0)


def test_no_gradient_is_made_for_an_input_that_needs_none():
    """Below the first adapted layer nothing is trained, so the product that would lead there is left out."""
    _, linear = fused(LoraSpec(r=2, alpha=2.0))
    x = torch.randn(3, 5, dtype=torch.float64)
    linear(x, training=True).sum().backward()

    assert x.grad is None
    assert all(branch.a.grad is not None and branch.b.grad is not None for branch in linear.branches)


def test_small_branches_are_not_rounded_away_in_bfloat16():
    """One product sums base and branch in float32: the mean of many rows moves by what the branch adds."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 64, generator=generator)
    linear = FusedLinear({"m.o_proj": weight}, LoraSpec(r=1, alpha=1.0), torch.bfloat16)
    x = torch.rand(20_000, 64, generator=generator).bfloat16()
    with torch.no_grad():
        linear.branches[0].a.fill_(1.0)
        linear.branches[0].b.zero_()
        base = linear(x, training=True).float().mean()
        linear.branches[0].b.fill_(1e-4)
        moved = linear(x, training=True).float().mean()

    # A x is about 32, so the branch adds about 0.0032: a twentieth of the spacing of bfloat16 at |y| of 8
    assert float(moved - base) == pytest.approx(0.0032, rel=0.1)


def test_targets_follow_the_rule_of_peft():
    """A name, or a dotted end of it; not any end."""
    spec = LoraSpec(r=1, alpha=1.0, targets=("q_proj", "mlp.up_proj"))

    assert spec.covers("model.layers.0.self_attn.q_proj")
    assert spec.covers("model.layers.0.mlp.up_proj")
    assert not spec.covers("model.layers.0.self_attn.xq_proj")
    assert not spec.covers("model.layers.0.other.up_proj")
