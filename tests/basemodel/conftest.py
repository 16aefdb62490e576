import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def llama(chat_model, tmp_path) -> Path:
    """A tiny Llama as a plain model folder of the test's own."""
    folder = Path(shutil.copytree(chat_model, tmp_path / "tiny-llama"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return folder


@pytest.fixture
def phi3(llama, tmp_path) -> Path:
    """The same tokenizer with the fused linear layers of a Phi-3."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = Path(shutil.copytree(llama, tmp_path / "tiny-phi3"))
    names = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    weights = {f"model.layers.{n}.{name}.weight": np.zeros((8, 8), np.float32) for n in range(2) for name in names}
    save_file(weights | {"model.embed_tokens.weight": np.zeros((300, 8), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def notes() -> tuple[list[str], Callable[[dict], None]]:
    """What a stage reported, and the function that it reports to."""
    texts: list[str] = []
    return texts, lambda event: texts.append(event["text"])
