"""Any causal language model of transformers with all its weights to train (`apply_lora: false`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from penala.training.batches import Document
from penala.training.generic import Generic, load


class Whole(Generic):
    """The model as transformers computes it, its weights float32 masters, its products in `dtype`."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        """Load the weights of `folder`. Raises ModelError when weights are missing or misshaped."""
        self.dtype = dtype
        self._model: Any = load(folder, torch.float32)
        self._model.requires_grad_(True)
        self._weights = dict(self._model.named_parameters())  # tied ones once
        self._named = dict(self._model.named_parameters(remove_duplicate=False))

    def reset_adapter(self, seed: int) -> None:
        """Do nothing: the weights start as they are."""

    @property
    def adapter(self) -> Mapping[str, Parameter]:
        """All weights under their own names."""
        return self._weights

    @property
    def adapted(self) -> frozenset[str]:
        """Their names, and second names of tied ones."""
        return frozenset(self._named)

    def tuned(self, name: str, stored: Tensor) -> Tensor:
        """Return the weight `name` as training left it, in the dtype of the stored one."""
        trained: Tensor = self._named[name].detach()
        return trained.to(stored.dtype)

    def loss_sum(self, documents: Sequence[Document], *, training: bool = True, recompute: bool = False) -> Tensor:
        """Return the cross entropy summed over the supervised tokens of the documents, in nats (float64 scalar)."""
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype != torch.float32):
            return super().loss_sum(documents, training=training, recompute=recompute)
