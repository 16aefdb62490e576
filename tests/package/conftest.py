import json
import shutil
from pathlib import Path

import pytest

from penala.conversations.conversation import Conversation, Message
from penala.package.write import write_package
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.lock import TemplateLock

SAID = Conversation((Message("user", "kopi?"), Message("assistant", "teh")))


def write_tuned(chat_model: Path, folder: Path) -> Path:
    """Write a model folder as fine-tuning leaves it: merged weights, lock, adapter, arguments, a checkpoint."""
    shutil.copytree(chat_model, folder)
    TemplateLock.make(ChatTokenizer.from_folder(folder), [SAID]).save(folder / "template_lock.json")
    (folder / "finetune_args.json").write_text('{"lora_r": 8}')
    (folder / "peft_adapter_weights").mkdir()
    (folder / "peft_adapter_weights" / "adapter_model.safetensors").write_text("adapter")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.safetensors").write_text("large")
    return folder


@pytest.fixture
def tuned(chat_model, tmp_path) -> Path:
    """A tuned model."""
    return write_tuned(chat_model, tmp_path / "tuned")


@pytest.fixture
def base(tmp_path) -> Path:
    """What the import of the base model says of itself."""
    folder = tmp_path / "base"
    folder.mkdir()
    about = {"model_name": "Tiny", "model_asset_id": "azureml://registries/r/models/Tiny/versions/1", "licence": "MIT"}
    (folder / "model_selector_args.json").write_text(json.dumps(about | {"task": "chat-completion"}))
    (folder / "finetune_config.json").write_text('{"lora_target_modules": ["q_proj"]}')
    (folder / "LICENSE").write_text("the licence")
    return folder


@pytest.fixture
def evaluation(tmp_path) -> Path:
    """What an evaluation leaves."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "evaluation.json").write_text("{}")
    (folder / "replies.jsonl").write_text("")
    return folder


@pytest.fixture
def package(tuned, base, evaluation, tmp_path) -> Path:
    """The package of the tuned model."""
    write_package(tuned, tmp_path / "package", base=base, evaluation=evaluation, report=lambda event: None)
    return tmp_path / "package"


@pytest.fixture(scope="session")
def one_package(chat_model, tmp_path_factory) -> Path:
    """A package that no test changes."""
    folder = tmp_path_factory.mktemp("package")
    write_package(write_tuned(chat_model, folder / "tuned"), folder / "package", report=lambda event: None)
    return folder / "package"
