"""What tests of several rooms share: one tiny model that can chat, and is written without torch."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 256


def write_chat_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer with ChatML's special tokens and template; return its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant system kopi teh"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def write_chat_model(folder: Path) -> Path:
    """Write a random Llama of 2 layers, width 32 and 256 tokens of context as a plain model folder."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, width, inner, key_width = write_chat_tokenizer(folder), 32, 64, 16
    shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in (f"model.layers.{number}" for number in range(2)):
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (width, width) for name in "qo"}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (key_width, width) for name in "kv"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (width, inner)
    random = np.random.default_rng(0)
    # wide weights keep logits far apart: no greedy choice hangs on rounding
    tensors = {name: random.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}
    norms = [f"model.layers.{n}.{name}_layernorm" for n in range(2) for name in ("input", "post_attention")]
    tensors |= {f"{name}.weight": np.ones(width, dtype=np.float32) for name in [*norms, "model.norm"]}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory) -> Path:
    """A tiny random chat model as a plain model folder. Copy it before you change it."""
    return write_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="session")
def hub_class() -> ModuleType:
    """The hub of hub.py, which lies beside this file."""
    spec = importlib.util.spec_from_file_location("hub", Path(__file__).with_name("hub.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
