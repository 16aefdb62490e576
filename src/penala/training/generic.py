"""Any causal language model of transformers with a PEFT adapter, behind the same face as the fast path."""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from penala.errors import ModelError, TrainingError
from penala.training.batches import IGNORED, Document
from penala.training.lora import LoraSpec, with_delta

_PREFIX = "base_model.model."


class Generic:
    """The model as transformers computes it; documents are right-padded, and padding is masked out."""

    padded = True

    def __init__(self, folder: Path, lora: LoraSpec | None, dtype: torch.dtype) -> None:
        """Load the weights of `folder` in `dtype`.

        Raises ModelError when weights are missing or misshaped, TrainingError when LoRA finds no layer.
        """
        self.dtype = dtype
        model: Any = load(folder, dtype)
        model.requires_grad_(False)
        self._adapter: dict[str, Parameter] = {}
        if lora is not None:
            model = self._with_adapter(model, lora)
        self._model: Any = model

    def _with_adapter(self, model: Any, lora: LoraSpec) -> Any:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets) or "all-linear",
            task_type="CAUSAL_LM",
        )
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise TrainingError(f"LoRA finds no layer: {error}", fix="name lora_target_modules of this model") from None
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                self._adapter[name.replace(".default.", ".")] = parameter
        return wrapped

    def reset_adapter(self, seed: int) -> None:
        """Draw A as PEFT does (Kaiming-uniform, a = sqrt(5)) from `seed`, and make B zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self._adapter.items():
                if ".lora_A." in name:
                    bound = 1 / math.sqrt(parameter.shape[1])
                    parameter.uniform_(-bound, bound, generator=generator)
                else:
                    parameter.zero_()

    @property
    def adapter(self) -> Mapping[str, Parameter]:
        """The trainable float32 parameters under PEFT's names."""
        return self._adapter

    @property
    def adapted(self) -> frozenset[str]:
        """The names of the stored weights that the adapter changes."""
        ends = (name.removeprefix(_PREFIX).partition(".lora_A.")[0] for name in self._adapter if ".lora_A." in name)
        return frozenset(f"{end}.weight" for end in ends)

    def delta(self, name: str) -> Tensor:
        """Return what the adapter adds to the stored weight `name`, in float32: scale * B A."""
        # PEFT's own, since some layers (GPT-2's) store W transposed
        layer: Any = self._model.get_submodule(_PREFIX + name.removesuffix(".weight"))
        added: Tensor = layer.get_delta_weight("default").detach().float()
        return added

    def tuned(self, name: str, stored: Tensor) -> Tensor:
        """Return the stored weight `name` with the adapter's share, in its stored dtype."""
        return with_delta(stored, self.delta(name))

    def loss_sum(self, documents: Sequence[Document], *, training: bool = True, recompute: bool = False) -> Tensor:
        """Return the cross entropy summed over the supervised tokens of the documents, in nats (float64 scalar)."""
        self._model.train(training)
        used = [document for document in documents if document.num_rows]
        if not used:
            return torch.zeros((), dtype=torch.float64, requires_grad=torch.is_grad_enabled())
        _switch_recompute(self._model, recompute and torch.is_grad_enabled())
        width = max(document.num_rows for document in used)
        ids, mask = torch.zeros(len(used), width, dtype=torch.long), torch.zeros(len(used), width, dtype=torch.long)
        targets = torch.full((len(used), width), IGNORED)
        for row, document in enumerate(used):
            ids[row, : document.num_rows] = torch.tensor(document.ids[: document.num_rows])
            mask[row, : document.num_rows] = 1
            targets[row, : document.num_rows] = torch.tensor(document.labels[1 : document.num_rows + 1])
        options: dict[str, Tensor] = {}
        # logits only where a token is supervised, where the architecture can do so
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            columns = (targets != IGNORED).any(dim=0).nonzero().flatten()
            options, targets = {"logits_to_keep": columns}, targets[:, columns]
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
        flat = logits.float().flatten(0, 1)
        nats = functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
        return nats.double().sum()


def _switch_recompute(model: Any, on: bool) -> None:
    """Say whether the layers are run again in the backward pass; a model that cannot keeps its activations."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        return
    # transformers 5 renamed it and warns of the old name
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{kind}_checkpointing_disable")()


def load(folder: Path, dtype: torch.dtype) -> Any:
    """Read a model with transformers; raise ModelError rather than make up a weight."""
    from transformers import AutoModelForCausalLM

    try:
        model, about = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (ValueError, RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"transformers cannot read the model: {first}", where=str(folder)) from None
    if missing := sorted(about["missing_keys"]):
        raise ModelError(f"the weights lack {missing[0]}", where=str(folder), fix="fetch the model again")
    return model
