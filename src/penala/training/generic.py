"""Any causal language model of transformers with a PEFT adapter, behind the same face as the fast path."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from penala.errors import TrainingError
from penala.training.batches import IGNORED, Document
from penala.training.lora import LoraSpec

_PREFIX = "base_model.model."


class Generic:
    """The model as transformers computes it; documents are right-padded, and padding is masked out."""

    padded = True

    def __init__(self, folder: Path, lora: LoraSpec | None, dtype: torch.dtype) -> None:
        """Load the weights of `folder` in `dtype`; raise TrainingError when LoRA finds no layer."""
        from transformers import AutoModelForCausalLM

        self.dtype, self.lora = dtype, lora
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        model.requires_grad_(False)
        self._adapter: dict[str, Parameter] = {}
        if lora is not None:
            model = self._with_adapter(model, lora)
        self._model = model

    def _with_adapter(self, model: torch.nn.Module, lora: LoraSpec) -> torch.nn.Module:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets) or "all-linear",
            task_type="CAUSAL_LM",
        )
        try:
            wrapped: torch.nn.Module = get_peft_model(model, config)
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
        assert self.lora is not None
        stem = _PREFIX + name.removesuffix(".weight")
        a, b = (self._adapter[f"{stem}.lora_{side}.weight"].detach() for side in "AB")
        return self.lora.scale * (b @ a)

    def loss_sum(self, documents: Sequence[Document], *, training: bool = True, recompute: bool = False) -> Tensor:
        """Return the cross entropy summed over the supervised tokens of the documents, in nats (float64 scalar)."""
        self._model.train(training)
        if recompute and hasattr(self._model, "gradient_checkpointing_enable"):
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        width = max(len(document) for document in documents)
        shape = (len(documents), width)
        ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, document in enumerate(documents):
            ids[row, : len(document)] = torch.tensor(document.ids)
            labels[row, : len(document)] = torch.tensor(document.labels)
            mask[row, : len(document)] = 1
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        flat = logits[:, :-1].float().flatten(0, 1)
        nats = functional.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
        return nats.double().sum()
