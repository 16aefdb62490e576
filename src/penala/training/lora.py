"""Low-rank adapters (LoRA, arXiv 2106.09685): frozen linear layers with trainable branches, in one product.

y = W x + (alpha / r) B A dropout(x), with A (r, in) and B (out, r). Base and branch are ONE matrix product,
[W | scale * B] [x ; A x]. Added to a finished W x in bfloat16, a branch below half an ulp of it would be rounded away,
which costs most of the first updates; inside the product it is summed in float32. It is also no slower.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """What LoRA is to be: the rank, alpha (the scale is alpha / r), dropout before A, and the layers by last name.

    No `targets` means every linear layer but the output head.
    """

    r: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        return self.alpha / self.r

    def covers(self, module: str) -> bool:
        """Say whether the layer with this full name is adapted, by PEFT's rule: the name or a dotted end of it."""
        return not self.targets or any(module == target or module.endswith(f".{target}") for target in self.targets)


@dataclass(frozen=True, slots=True)
class _Branch:
    """One adapted layer of a FusedLinear: where its outputs lie in W and its ranks among all ranks."""

    name: str
    outputs: slice
    ranks: slice
    a: Parameter
    b: Parameter


class FusedLinear:
    """Frozen layers that read the same input, side by side, with the LoRA branches of those that have one.

    Input (T, in) -> output (T, sum of out) in the dtype of the weights; A and B are float32 masters.
    """

    def __init__(self, layers: Mapping[str, Tensor], lora: LoraSpec | None, dtype: torch.dtype) -> None:
        """Take the weights of the layers by full name, each (out, in)."""
        self.in_features = next(iter(layers.values())).shape[1]
        self.scale = lora.scale if lora else 0.0
        self.dropout = lora.dropout if lora else 0.0
        self.outputs = _spans({name: weight.shape[0] for name, weight in layers.items()})
        ranks = _spans({name: lora.r for name in layers if lora.covers(name)}) if lora else {}
        self.branches = tuple(
            _Branch(
                name,
                self.outputs[name],
                span,
                Parameter(torch.empty(span.stop - span.start, self.in_features)),
                Parameter(torch.zeros(layers[name].shape[0], span.stop - span.start)),
            )
            for name, span in ranks.items()
        )
        num_outputs = sum(weight.shape[0] for weight in layers.values())
        num_ranks = max((span.stop for span in ranks.values()), default=0)
        # the columns after W hold scale * B, block-diagonal: they are written anew by each forward pass
        self.weight = torch.zeros(num_outputs, self.in_features + num_ranks, dtype=dtype)
        for name, weight in layers.items():
            self.weight[self.outputs[name], : self.in_features] = weight

    def reset(self, generator: torch.Generator) -> None:
        """Draw A as PEFT does (Kaiming-uniform, a = sqrt(5)) and make B zero: a fresh adapter changes no answer."""
        bound = 1 / math.sqrt(self.in_features)
        with torch.no_grad():
            for branch in self.branches:
                branch.a.uniform_(-bound, bound, generator=generator)
                branch.b.zero_()

    def __call__(self, x: Tensor, *, training: bool) -> Tensor:
        if not self.branches:
            return x @ self.weight.mT
        dropout = self.dropout if training else 0.0
        factors = [factor for branch in self.branches for factor in (branch.a, branch.b)]
        out: Tensor = _FusedLora.apply(x, self, dropout, *factors)  # type: ignore[no-untyped-call]  # torch types no apply
        return out


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: FusedLinear, dropout: float, *factors: Tensor) -> Tensor:
        width = linear.in_features
        a_all = torch.cat(factors[0::2]).to(x.dtype)
        for branch, b in zip(linear.branches, factors[1::2], strict=True):
            tail = slice(width + branch.ranks.start, width + branch.ranks.stop)
            linear.weight[branch.outputs, tail] = (b * linear.scale).to(x.dtype)
        wide = x.new_empty(x.shape[0], linear.weight.shape[1])
        wide[:, :width] = x
        keep = torch.empty_like(x).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
        wide[:, width:] = (x if keep is None else x * keep) @ a_all.mT
        ctx.save_for_backward(wide, a_all, *([] if keep is None else [keep]))
        ctx.linear = linear
        return wide @ linear.weight.mT

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        wide, a_all, *dropped = ctx.saved_tensors
        linear: FusedLinear = ctx.linear
        width = linear.in_features
        x, ranks = wide[:, :width], wide[:, width:]
        keep = dropped[0] if dropped else None
        d_x = None
        if ctx.needs_input_grad[0]:
            d_wide = d_y @ linear.weight
            d_ranks = d_wide[:, width:]
            d_x = d_wide[:, :width]
            d_x = d_x.addmm_(d_ranks, a_all) if keep is None else d_x + (d_ranks @ a_all) * keep
        else:
            d_ranks = d_y @ linear.weight[:, width:]
        d_a_all = (d_ranks.mT @ (x if keep is None else x * keep)).float()
        gradients: list[Tensor | None] = []
        for branch in linear.branches:
            d_b = (d_y[:, branch.outputs].mT @ ranks[:, branch.ranks]).float() * linear.scale
            gradients += [d_a_all[branch.ranks], d_b]
        return d_x, None, None, *gradients


def with_delta(stored: Tensor, delta: Tensor) -> Tensor:
    """Return `stored + delta`, summed in float32, in the dtype of `stored`."""
    return (stored.float() + delta).to(stored.dtype)


def _spans(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Return where each part lies when parts of these sizes are put side by side."""
    spans, start = {}, 0
    for name, size in sizes.items():
        spans[name] = slice(start, start + size)
        start += size
    return spans
