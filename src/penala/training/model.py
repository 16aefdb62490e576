"""Open a model folder for training: the fast path where it computes just what transformers would, else that."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import Parameter

from penala.basemodel.folder import read_json, tensors, weight_files
from penala.errors import ModelError, TrainingError
from penala.training.batches import Document
from penala.training.estimate import bytes_a_number
from penala.training.llama import Llama, LlamaShape
from penala.training.lora import LoraSpec

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the head
SKIPPED_NOTE = "the fast path does not know this model's {reason}: transformers and PEFT train it"


class Model(Protocol):
    """A model with float32 parameters to train: a LoRA adapter beside frozen weights, or all weights."""

    padded: bool  # whether a micro-batch is as wide as its longest document
    dtype: torch.dtype

    def reset_adapter(self, seed: int) -> None:
        """Start the adapter, if there is one, anew."""

    @property
    def adapter(self) -> Mapping[str, Parameter]:
        """The trainable parameters, an adapter's under PEFT's names."""

    @property
    def adapted(self) -> frozenset[str]:
        """The names of the stored weights that training changes."""

    def tuned(self, name: str, stored: Tensor) -> Tensor:
        """Return the stored weight `name` as training left it, in its stored dtype."""

    def loss_sum(self, documents: Sequence[Document], *, training: bool = True, recompute: bool = False) -> Tensor:
        """Return the cross entropy summed over the supervised tokens, in nats."""


def arithmetic(precision: str) -> torch.dtype:
    """Return bfloat16 for precision 16 where the CPU multiplies it in hardware, else float32."""
    return torch.bfloat16 if bytes_a_number(precision) == 2 else torch.float32


def open_model(folder: Path, lora: LoraSpec | None, dtype: torch.dtype) -> tuple[Model, str | None]:
    """Return the model of `folder`, and a note when the fast path cannot be taken."""
    shape = LlamaShape.of(read_json(folder / "config.json"))
    reason = shape if isinstance(shape, str) else _odd_weight(shape, folder) or _odd_target(lora)
    if isinstance(shape, LlamaShape) and reason is None:
        return Llama(shape, StoredWeights(folder), lora, dtype), None
    from penala.training.generic import Generic

    model = Generic(folder, lora, dtype)
    if lost := sorted(model.adapted - set(StoredWeights(folder).names)):
        what = f"LoRA trains {lost[0]}, which the stored weights do not name so: it could not be merged"
        raise TrainingError(what, where=str(folder), fix="leave that layer out of lora_target_modules")
    return model, SKIPPED_NOTE.format(reason=reason)


def open_whole(folder: Path, dtype: torch.dtype) -> Model:
    """Return the model of `folder` with every weight to train; the arithmetic is of `dtype`, the weights float32."""
    from penala.training.whole import Whole

    model = Whole(folder, dtype)
    if lost := sorted(set(model.adapter) - set(StoredWeights(folder).names)):
        what = f"the model trains {lost[0]}, which the stored weights do not name so: it could not be written"
        raise TrainingError(what, where=str(folder), fix="set apply_lora to true")
    return model


def _odd_weight(shape: LlamaShape, folder: Path) -> str | None:
    """Name a weight that the config does not promise, or promises and that is not there.

    Raises ModelError for a weight whose shape is not the config's.
    """
    expected = shape.weights()
    found = {name: size for file in weight_files(folder) for name, (_, size) in tensors(file).items()}
    for name in expected:  # in the model's order: one fault, one message
        if name in found and found[name] != expected[name]:
            what = f"{name} has shape {found[name]}, and config.json says {expected[name]}"
            raise ModelError(what, where=str(folder), fix="take weights and config from the same model")
    odd = found.keys() ^ expected.keys()
    if shape.tied:
        odd.discard("lm_head.weight")  # some files hold the tied head a second time
    return f"weight {min(odd)}" if odd else None


def _odd_target(lora: LoraSpec | None) -> str | None:
    """Name a layer that LoRA is to adapt and that is not one of a decoder block's linear layers."""
    layers = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    targets = lora.targets if lora else ()
    odd = [target for target in targets if target.rpartition(".")[2] not in layers]
    return f"LoRA target {odd[0]}" if odd else None


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
    file = folder / "finetune_config.json"
    targets = (read_json(file) if file.is_file() else {}).get("lora_target_modules") or ALL_LINEAR
    if targets == ALL_LINEAR:
        targets = ()
    elif isinstance(targets, str):  # PEFT reads any other text as a regular expression
        raise TrainingError(f"lora_target_modules is {targets!r}", where=str(file), fix="write a list of layer names")
    return LoraSpec(r, alpha, dropout, tuple(targets))
