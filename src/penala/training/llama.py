"""The fast path: LoRA training of Llama-shaped decoders on flat rows, with the loss of transformers + PEFT.

What makes it fast: no padding, a shared prefix computed once, base and LoRA in one product, q/k/v and gate/up fused,
attention that never leaves a document, logits and their gradient only where a token is supervised, no gradient for
frozen weights and none below the first adapted layer.
Shapes: T rows, D hidden width, F feed-forward width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from penala.training.attention import Angles, Heads, attend
from penala.training.batches import Document
from penala.training.layout import Layout, lay_out
from penala.training.lora import FusedLinear, LoraSpec, with_delta

# Logits are made for so many bytes at a time
LOGITS_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """What of a Llama config decides the computation."""

    num_layers: int
    hidden: int
    feed_forward: int
    heads: Heads
    vocabulary: int
    norm_eps: float
    rope_theta: float
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "LlamaShape | str":
        """Read config.json; return the reason in words when the computation is not exactly the one of this module."""
        reason = _foreign(config)
        if reason:
            return reason
        rope = config.get("rope_parameters") or {}
        num_heads = int(config["num_attention_heads"])
        width = int(config.get("head_dim") or config["hidden_size"] // num_heads)
        return cls(
            num_layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            feed_forward=int(config["intermediate_size"]),
            heads=Heads(num_heads, int(config.get("num_key_value_heads") or num_heads), width),
            vocabulary=int(config["vocab_size"]),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every stored tensor."""
        queries, keys = self.heads.num_queries * self.heads.width, self.heads.num_keys * self.heads.width
        layer = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.feed_forward, self.hidden),
            "mlp.up_proj": (self.feed_forward, self.hidden),
            "mlp.down_proj": (self.hidden, self.feed_forward),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for number in range(self.num_layers):
            shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes


def _foreign(config: Mapping[str, Any]) -> str | None:
    """Name the first setting that transformers' Llama would heed and this module would not."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    foreign = {
        "model_type": config.get("model_type") != "llama",
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "attention_dropout": bool(config.get("attention_dropout")),
        "rope type": (rope.get("rope_type") or rope.get("type") or "default") != "default",
        "quantization_config": config.get("quantization_config") is not None,
        "sliding_window": config.get("sliding_window") is not None,
    }
    return next((name for name, is_foreign in foreign.items() if is_foreign), None)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one decoder layer."""

    norm_in: Tensor
    qkv: FusedLinear
    out: FusedLinear
    norm_mid: Tensor
    gate_up: FusedLinear
    down: FusedLinear

    def linears(self) -> tuple[FusedLinear, ...]:
        return (self.qkv, self.out, self.gate_up, self.down)


class Llama:
    """A Llama-shaped decoder with frozen weights of one dtype and, with `lora`, float32 adapters to train."""

    padded = False

    def __init__(
        self, shape: LlamaShape, weight: Callable[[str], Tensor], lora: LoraSpec | None, dtype: torch.dtype
    ) -> None:
        """Take each stored tensor once from `weight(name)`."""
        self.shape, self.lora, self.dtype = shape, lora, dtype

        def take(name: str) -> Tensor:
            return weight(f"{name}.weight").to(dtype)

        def fuse(prefix: str, *names: str) -> FusedLinear:
            return FusedLinear({f"{prefix}.{name}": take(f"{prefix}.{name}") for name in names}, lora, dtype)

        self._embedding = take("model.embed_tokens")
        self._layers = []
        for number in range(shape.num_layers):
            layer = f"model.layers.{number}"
            self._layers.append(
                _Layer(
                    norm_in=take(f"{layer}.input_layernorm"),
                    qkv=fuse(f"{layer}.self_attn", "q_proj", "k_proj", "v_proj"),
                    out=fuse(f"{layer}.self_attn", "o_proj"),
                    norm_mid=take(f"{layer}.post_attention_layernorm"),
                    gate_up=fuse(f"{layer}.mlp", "gate_proj", "up_proj"),
                    down=fuse(f"{layer}.mlp", "down_proj"),
                )
            )
        self._norm = take("model.norm")
        self._head = self._embedding if shape.tied else take("lm_head")

    def reset_adapter(self, seed: int) -> None:
        """Start the adapter anew: A from `seed`, B zero."""
        generator = torch.Generator().manual_seed(seed)
        for linear in self._linears():
            linear.reset(generator)

    @property
    def adapter(self) -> dict[str, Parameter]:
        """The trainable float32 parameters under PEFT's names."""
        parameters: dict[str, Parameter] = {}
        for linear in self._linears():
            for branch in linear.branches:
                parameters[f"base_model.model.{branch.name}.lora_A.weight"] = branch.a
                parameters[f"base_model.model.{branch.name}.lora_B.weight"] = branch.b
        return parameters

    @property
    def adapted(self) -> frozenset[str]:
        """The names of the stored weights that the adapter changes."""
        return frozenset(f"{branch.name}.weight" for linear in self._linears() for branch in linear.branches)

    def delta(self, name: str) -> Tensor:
        """Return what the adapter adds to the stored weight `name`, in float32: scale * B A."""
        for linear in self._linears():
            for branch in linear.branches:
                if name == f"{branch.name}.weight":
                    return linear.scale * (branch.b.detach() @ branch.a.detach())
        raise KeyError(name)

    def tuned(self, name: str, stored: Tensor) -> Tensor:
        """Return the stored weight `name` with the adapter's share, in its stored dtype."""
        return with_delta(stored, self.delta(name))

    def loss_sum(self, documents: Sequence[Document], *, training: bool = True, recompute: bool = False) -> Tensor:
        """Return the cross entropy summed over the supervised tokens of the documents, in nats (float64 scalar).

        With `recompute` only the input of each layer is kept, and the layer is run again in the backward pass.
        """
        # under dropout each document has its own masks, so a prefix cannot be shared exactly
        dropped = training and self.lora is not None and self.lora.dropout > 0
        layout = lay_out(documents, share_prefix=not dropped)
        if layout is None:
            return torch.zeros((), dtype=torch.float64, requires_grad=torch.is_grad_enabled())
        heads = self.shape.heads
        angles = Angles.at(layout.padded_positions, theta=self.shape.rope_theta, width=heads.width, dtype=self.dtype)
        x = self._embedding[layout.ids]
        for layer in self._layers:
            # after the last attention only the rows that predict something matter
            rows = layout.predicting if layer is self._layers[-1] else None
            if recompute and torch.is_grad_enabled():
                x = checkpoint(self._run, layer, x, angles, layout, rows, training, use_reentrant=False)
            else:
                x = self._run(layer, x, angles, layout, rows, training)
        return supervised_nats(_rms_norm(x, self._norm, self.shape.norm_eps), self._head, layout.targets)

    def _run(
        self, layer: _Layer, x: Tensor, angles: Angles, layout: Layout, rows: Tensor | None, training: bool
    ) -> Tensor:
        """Run one decoder layer on x (T, D); with `rows`, return only those."""
        eps = self.shape.norm_eps
        qkv = layer.qkv(_rms_norm(x, layer.norm_in, eps), training=training)
        mixed = attend(qkv, angles, layout.packing, self.shape.heads)
        if rows is not None:
            x, mixed = x[rows], mixed[rows]
        x = x + layer.out(mixed, training=training)
        gate_up = layer.gate_up(_rms_norm(x, layer.norm_mid, eps), training=training)
        return x + layer.down(_swiglu(gate_up), training=training)

    def _linears(self) -> Iterable[FusedLinear]:
        return (linear for layer in self._layers for linear in layer.linears())


def supervised_nats(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross entropy of `targets` (T) under the logits hidden (T, D) @ head (V, D)^T, in float64.

    The logits exist only in chunks, and the gradient of `hidden` is made with them; `head` gets none.
    """
    nats: Tensor = _SupervisedNats.apply(hidden, head, targets)  # type: ignore[no-untyped-call]  # torch types no apply
    return nats


class _SupervisedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        nats = torch.zeros((), dtype=torch.float64)
        chunk = max(1, LOGITS_BYTES // (4 * head.shape[0]))
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            logits = (hidden[rows] @ head.mT).float()
            logits -= logits.amax(dim=-1, keepdim=True)
            nats -= logits.gather(1, targets[rows, None]).sum(dtype=torch.float64)
            # in place: a table of rows x V is the largest tensor of the step
            exponentials = logits.exp_()
            total = exponentials.sum(dim=-1, keepdim=True)
            nats += total.log().sum(dtype=torch.float64)
            if d_hidden is not None:
                # (softmax - one-hot) @ head
                d_hidden[rows] = (exponentials.to(head.dtype) @ head).div_(total) - head[targets[rows]]
        if d_hidden is not None:
            ctx.save_for_backward(d_hidden)
        return nats

    @staticmethod
    def backward(ctx: Any, d_nats: Tensor) -> tuple[Tensor, None, None]:
        (d_hidden,) = ctx.saved_tensors
        return d_hidden * d_nats.to(d_hidden.dtype), None, None


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    normed: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]  # torch types no apply
    return normed


class _RmsNorm(torch.autograd.Function):
    """y = w * x / sqrt(mean(x^2) + eps) (arXiv 1910.07467), in float32 inside; w is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.float()
        d_unit = (d_y * weight).float()
        along = torch.linalg.vecdot(d_unit, wide)[:, None] * inverse**3 / x.shape[1]
        return d_unit.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype), None, None


def _swiglu(gate_up: Tensor) -> Tensor:
    mixed: Tensor = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]  # torch types no apply
    return mixed


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up (arXiv 2002.05202) of (T, 2 F) -> (T, F)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        # rows a multiple of 4096 bytes apart share cache sets: products that walk down a column get 2-3x slower
        d_gate_up: Tensor = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] + 16)[:, :-16]
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        torch.mul(d_y, silu, out=d_up)
        # silu' = sigmoid + silu - sigmoid * silu
        torch.mul(sigmoid + silu.addcmul_(sigmoid, silu, value=-1), d_y, out=d_gate).mul_(up)
        return d_gate_up
