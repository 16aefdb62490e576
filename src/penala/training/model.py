"""Open a model folder for training: the fast path where it computes just what transformers would, else that."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import Parameter

from penala.basemodel.folder import read_json, weight_files
from penala.training.batches import Document
from penala.training.estimate import bytes_a_number
from penala.training.llama import Llama, LlamaShape
from penala.training.lora import LoraSpec

SKIPPED_NOTE = "the fast path does not know this model's {reason}: transformers and PEFT train it"


class Model(Protocol):
    """A model with frozen weights and, with LoRA, a float32 adapter to train."""

    padded: bool  # whether a micro-batch is as wide as its longest document
    dtype: torch.dtype

    def reset_adapter(self, seed: int) -> None:
        """Start the adapter anew."""

    @property
    def adapter(self) -> Mapping[str, Parameter]:
        """The trainable parameters under PEFT's names."""

    @property
    def adapted(self) -> frozenset[str]:
        """The names of the stored weights that the adapter changes."""

    def delta(self, name: str) -> Tensor:
        """Return what the adapter adds to the stored weight `name`, in float32."""

    def loss_sum(self, documents: Sequence[Document], *, training: bool = True, recompute: bool = False) -> Tensor:
        """Return the cross entropy summed over the supervised tokens, in nats."""


def arithmetic(precision: str) -> torch.dtype:
    """Return bfloat16 for precision 16 where the CPU multiplies it in hardware, else float32."""
    return torch.bfloat16 if bytes_a_number(precision) == 2 else torch.float32


def open_model(folder: Path, lora: LoraSpec | None, dtype: torch.dtype) -> tuple[Model, str | None]:
    """Return the model of `folder`, and a note when the fast path cannot be taken."""
    shape = LlamaShape.of(read_json(folder / "config.json"))
    if isinstance(shape, LlamaShape):
        weights = StoredWeights(folder)
        reason = _odd_weight(shape, weights)
        if reason is None:
            return Llama(shape, weights, lora, dtype), None
    else:
        reason = shape
    from penala.training.generic import Generic

    return Generic(folder, lora, dtype), SKIPPED_NOTE.format(reason=reason)


def _odd_weight(shape: LlamaShape, weights: "StoredWeights") -> str | None:
    """Name a weight that the config does not promise, or promises and that is not there."""
    expected = shape.weights()
    odd = set(weights.names) ^ set(expected)
    if shape.tied:
        odd.discard("lm_head.weight")  # some files hold the tied head a second time
    return f"weight {min(odd)}" if odd else None


class StoredWeights:
    """The tensors of a model folder by name, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self._files)

    def in_file(self, name: str) -> list[str]:
        """The names in the file called `name`, sorted."""
        return sorted(tensor for tensor, file in self._files.items() if file.name == name)

    def __call__(self, name: str) -> Tensor:
        """Return one tensor in its stored dtype."""
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor


def lora_spec(folder: Path, r: int, alpha: float, dropout: float) -> LoraSpec:
    """Return the adapter's shape; the layers come from the model's finetune_config.json, else all linear ones."""
    config: dict[str, Any] = {}
    if (file := folder / "finetune_config.json").is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    return LoraSpec(r, alpha, dropout, tuple(config.get("lora_target_modules", ())))


def merged(weight: Callable[[str], Tensor], model: Model, name: str) -> Tensor:
    """Return the stored weight `name` with the adapter's share added in float32, in its stored dtype."""
    stored = weight(name)
    if name not in model.adapted:
        return stored
    return (stored.float() + model.delta(name)).to(stored.dtype)
