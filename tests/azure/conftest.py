"""What the tests of the Azure face share: a tiny Phi-3, tags of three generations, and a hub with a small ultrachat."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penala.workspace.client import Workspace

collect_ignore_glob = [] if importlib.util.find_spec("azure") else ["*"]  # of the extra, which `.[dev]` brings
PHI = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
PHI_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ULTRACHAT = "HuggingFaceH4/ultrachat_200k"
BASE = "Phi-3-mini-4k-instruct"
V100 = "Standard_ND40rs_v2"
A100 = ["Standard_NC24ads_A100_v4", "Standard_NC48ads_A100_v4", "Standard_ND96asr_v4", "Standard_ND96amsr_A100_v4"]
INFERENCE = ["Standard_NC6s_v3", "Standard_NC12s_v3", V100, *A100]
DEFAULTS = {
    "apply_deepspeed": "true",
    "deepspeed_stage": 2,
    "apply_lora": "true",
    "apply_ort": "false",
    "precision": 16,
    "ignore_mismatched_sizes": "false",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine",
    "logging_strategy": "steps",
    "logging_steps": 10,
    "save_total_limit": 1,
}
BOUNDS = {"learning_rate_min": "5e-7", "learning_rate_max": "5e-5"}
# what a client of Azure's registry found in the tags of the tutorial's model, and the size that it let one tune on
GENERATIONS: dict[str, dict[str, Any]] = {
    "2024": {
        "tags": {
            "finetune_compute_allow_list": [V100, *A100],
            "inference_compute_allow_list": INFERENCE,
            "model_specific_defaults": DEFAULTS,
        },
        "size": V100,
    },
    "2025": {
        "tags": {
            "finetune_compute_allow_list": A100,
            "inference_compute_allow_list": INFERENCE,
            "model_specific_defaults": DEFAULTS | BOUNDS,
        },
        "size": "Standard_ND96asr_v4",
    },
    "2026": {
        "tags": {"_aml_system_vanity_registry": "azureml-phi", "model_specific_defaults": DEFAULTS | BOUNDS},
        "system_metadata": {"supportedComputes": {"finetuneComputes": A100, "inferenceComputes": INFERENCE}},
        "size": V100,
    },
}


@pytest.fixture
def generations() -> dict[str, dict[str, Any]]:
    """The tags of the tutorial's model in three years, and a size that each allows."""
    return GENERATIONS


@pytest.fixture(scope="session")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi-3 of two layers with Phi-3's template, as a plain model folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Phi3Config, Phi3ForCausalLM

    folder = tmp_path_factory.mktemp("phi3") / "model"
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(PHI), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["user assistant system kopi teh"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": PHI_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def add_base(phi3: Path) -> Callable[..., None]:
    """Put the tiny Phi-3 into a workspace's catalogue under the tutorial's name, with a generation's tags."""

    def add(folder: Path, generation: str = "2024", version: str = "16") -> None:
        about = {key: value for key, value in GENERATIONS[generation].items() if key != "size"}
        with Workspace.open(folder, create=True) as workspace:
            workspace.models.add(BASE, str(phi3), version, **about)

    return add


@pytest.fixture(scope="session")
def ultrachat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in ultrachat's layout and shape, whose first 5 per cent are enough to tune on."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("hub") / "ultrachat"
    (folder / "data").mkdir(parents=True)
    for split, count in {"train_sft": 400, "test_sft": 60, "train_gen": 60, "test_gen": 60}.items():
        rows = [_row(number, asks_last=split.endswith("_gen")) for number in range(count)]
        path = folder / "data" / f"{split}-00000-of-00001-0a1b2c.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=20)
    return folder


def _row(number: int, *, asks_last: bool) -> dict[str, Any]:
    turns = [f"How much is kopi number {number}?", f"It costs {number} ringgit.", "And teh?", "The same."]
    turns = turns[:3] if asks_last else turns
    messages = [{"content": text, "role": ("user", "assistant")[place % 2]} for place, text in enumerate(turns)]
    return {"prompt": turns[0], "prompt_id": f"{number:064x}", "messages": messages}


@pytest.fixture
def hub(ultrachat: Path, hub_class: Any) -> Iterator[Any]:
    """A hub on loopback with the small ultrachat."""
    with hub_class.Hub(ULTRACHAT, ultrachat, "datasets") as running:
        yield running


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """The environment of a notebook on a machine without an account: python is this one, and nobody can sign in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PENALA", "HF_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",  # of the sources of a credential, the one that never asks
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error::DeprecationWarning:penala,error::ResourceWarning:penala",
    }
