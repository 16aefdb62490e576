import shutil
from pathlib import Path

import pytest

from penala.conversations.conversation import Conversation, Message, write_jsonl
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.prepared import RowsWriter, split_file

TEXTS = [("kopi?", "teh"), ("teh?", "kopi"), ("user?", "assistant")]


@pytest.fixture
def tuned(chat_model, tmp_path) -> Path:
    """A model of the same shape as the base, with other weights."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(chat_model, tmp_path / "tuned"))
    random = np.random.default_rng(1)
    weights = load_file(folder / "model.safetensors")
    moved = {
        name: value + random.normal(scale=0.1, size=value.shape).astype(np.float32) for name, value in weights.items()
    }
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def prepare(chat_model, tmp_path):
    """Write what data preparation leaves of a split: conversations with these columns, and their tokens."""

    def write(split: str = "test", columns=({}, {}, {})) -> Path:
        folder = tmp_path / "prepared"
        (folder / "raw_data").mkdir(parents=True, exist_ok=True)
        rows = [
            Conversation((Message("user", asked), Message("assistant", said)), columns=more)
            for (asked, said), more in zip(TEXTS, columns, strict=True)
        ]
        with (folder / "raw_data" / f"{split}.jsonl").open("wb") as file:
            write_jsonl(file, rows)
        tokenizer = ChatTokenizer.from_folder(chat_model)
        with RowsWriter(split_file(folder, split)) as file:
            for tokens in map(tokenizer.training_tokens, rows):
                file.add(tokens.ids, tokens.supervised)
        return folder

    return write
