"""A tiny random Llama and the same model in transformers + PEFT; documents that share a prefix."""

import json
import random
from array import array
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from penala.training.batches import Document
from penala.training.llama import Llama, LlamaShape
from penala.training.lora import LoraSpec

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LORA = LoraSpec(r=4, alpha=8.0)


def document(length: int, *, seed: int, prefix: Sequence[int] = (), share: float = 0.6) -> Document:
    """Return `prefix` and `length` random tokens, of which about `share` are supervised, but for the first three."""
    rng = random.Random(seed)
    ids = [*prefix, *(rng.randrange(VOCABULARY) for _ in range(length))]
    first = len(prefix) + 3
    labels = [-100] * first + [token if rng.random() < share else -100 for token in ids[first:]]
    return Document(array("i", ids), array("i", labels))


@pytest.fixture
def documents() -> list[Document]:
    """Seven rows of all kinds: unlabelled, short and long, with a prefix of 9 tokens that all share."""
    rng = random.Random(7)
    prefix = [rng.randrange(VOCABULARY) for _ in range(9)]
    return [document(length, seed=length, prefix=prefix) for length in (5, 12, 20, 70, 140, 300, 310)]


class Twins:
    """The fast path, and transformers + PEFT with the same weights and the same trained-looking adapter."""

    def __init__(self, *, lora: LoraSpec = LORA, **changes: object) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(**{**SIZES, **changes})
        base = LlamaForCausalLM(config).requires_grad_(False)
        for parameter in base.parameters():
            # wide enough that attention is not uniform and no norm weight is 1
            parameter.normal_(0, 0.2) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
        self.stored = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        shape = LlamaShape.of(json.loads(config.to_json_string(use_diff=False)))
        assert isinstance(shape, LlamaShape), shape
        self.fast = Llama(shape, self.stored.__getitem__, lora, torch.float32)
        targets = list(lora.targets) or "all-linear"
        self.peft = get_peft_model(base, LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets))
        self.reference = {
            name.replace(".default.", "."): parameter
            for name, parameter in self.peft.named_parameters()
            if parameter.requires_grad
        }
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in self.fast.adapter.items():
                parameter.normal_(0, 0.1, generator=generator)  # a fresh B is zero and would prove nothing
                self.reference[name].copy_(parameter)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return transformers + PEFT's logits (T, V)."""
        logits: Tensor = self.peft(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
        return logits

    def reference_loss(self, documents: Sequence[Document]) -> Tensor:
        """Return the summed loss of transformers + PEFT, one document at a time."""
        losses = []
        for document in documents:
            goal = torch.tensor(document.labels)[1:].long()
            losses.append(functional.cross_entropy(self.logits(document.ids)[:-1], goal, reduction="sum"))
        return torch.stack(losses).sum()


@pytest.fixture
def twins() -> Callable[..., Twins]:
    """Make the pair; keywords change the config."""
    return Twins


def gradients(loss: Tensor, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Return the gradient of every parameter by name."""
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.fixture
def gradients_of() -> Callable[..., dict[str, Tensor]]:
    """Give tests `gradients`."""
    return gradients


@pytest.fixture
def make_document() -> Callable[..., Document]:
    """Give tests `document`."""
    return document
