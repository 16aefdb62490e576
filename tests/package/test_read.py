import json

import pytest
import yaml

from penala.errors import PackageError
from penala.package import read_package
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.lock import TemplateLock


def test_what_was_written_is_read_back(package, tuned):
    """The plain model folder, the lock, and what MLmodel says."""
    read = read_package(package)

    assert read.model_folder == package / "model"
    assert read.lock == TemplateLock.load(tuned / "template_lock.json")
    assert read.metadata["base_model_name"] == "Tiny"
    read.lock.verify(ChatTokenizer.from_folder(read.model_folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MLmodel", "MLmodel is missing"),
        ("model/config.json", r"config\.json is missing"),
        ("model/model.safetensors", r"model\.safetensors is missing"),
        ("model/tokenizer.json", r"tokenizer\.json is missing"),
        ("model/template_lock.json", r"template_lock\.json is missing"),
    ],
)
def test_a_missing_part_is_named(package, name, message):
    """A tuned model without its lock is incomplete too."""
    (package / name).unlink()

    with pytest.raises(PackageError, match=message):
        read_package(package)


@pytest.mark.parametrize("text", ["", "{", "flavors: {sklearn: {}}", "flavors: 3", "saved: 2024-13-45"])
def test_an_mlmodel_file_of_something_else_is_refused(package, text):
    """Empty, broken, or of another flavour."""
    (package / "MLmodel").write_text(text)

    with pytest.raises(PackageError, match="MLmodel"):
        read_package(package)


def test_weights_that_are_cut_short_are_refused(package):
    """Before anything is loaded."""
    weights = package / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1])

    with pytest.raises(PackageError, match="cut short"):
        read_package(package)


def test_a_changed_lock_is_refused(package):
    """The lock carries its own digest."""
    lock = package / "model" / "template_lock.json"
    stored = json.loads(lock.read_text()) | {"special_tokens": {"eos_token": "<|endoftext|>"}}
    lock.unlink()
    lock.write_text(json.dumps(stored))

    with pytest.raises(PackageError, match="changed after it was written"):
        read_package(package)


def test_a_base_model_needs_no_lock(package):
    """Whoever was not tuned here has nothing to prove."""
    mlmodel = yaml.safe_load((package / "MLmodel").read_text())
    mlmodel["metadata"]["is_finetuned_model"] = False
    (package / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    (package / "model" / "template_lock.json").unlink()

    assert read_package(package).lock is None
