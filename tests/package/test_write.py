import json
import shutil

import pytest
import yaml

from penala.errors import PackageError, TemplateMismatch
from penala.package.mlmodel import requirements
from penala.package.write import write_package
from penala.tokens.chat_tokenizer import ChatTokenizer


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_report(event):
    pass


def test_a_package_holds_all_that_it_takes_to_use_the_model(package):
    """Weights and tokenizer where both flavours look, adapter, lock, licence, evaluation; checkpoints stay behind."""
    assert set(files(package)) == {
        "MLmodel",
        "requirements.txt",
        "conda.yaml",
        "python_env.yaml",
        "input_example.json",
        "serving_input_example.json",
        "LICENSE",
        "evaluation.json",
        "finetune_args.json",
        "finetune_config.json",
        "template_lock.json",
        "code/penala_chat_model.py",
        "components/tokenizer/tokenizer.json",
        "components/tokenizer/tokenizer_config.json",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/template_lock.json",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "peft_adapter_weights/adapter_model.safetensors",
    }


def test_the_weights_lie_on_the_disk_once(package, tuned):
    """They are linked, not copied."""
    assert (package / "model" / "model.safetensors").samefile(tuned / "model.safetensors")


def test_mlmodel_says_where_the_model_comes_from(package):
    """Under the names of Azure's converter."""
    metadata = yaml.safe_load((package / "MLmodel").read_text())["metadata"]

    assert metadata["is_finetuned_model"] is True
    assert metadata["base_model_name"] == "Tiny"
    assert metadata["base_model_task"] == metadata["finetuning_task"] == "chat-completion"
    assert metadata["base_model_asset_id"] == "azureml://registries/r/models/Tiny/versions/1"
    assert metadata["task"] == "llm/v1/chat"


def test_the_same_model_gives_the_same_bytes(package, tuned, base, evaluation, tmp_path):
    """Wherever it is written: no path, no time, no random number; the identifier is made of the content."""
    moved = tmp_path / "elsewhere" / "model"
    shutil.copytree(tuned, moved)
    write_package(moved, tmp_path / "again", base=base, evaluation=evaluation, report=no_report)

    assert files(tmp_path / "again") == files(package)
    assert str(tmp_path) not in (package / "MLmodel").read_text()


def test_other_content_gives_another_identifier(package, tuned, base, tmp_path):
    """model_uuid tells two models apart, even when only the adapter's arguments differ."""
    (tuned / "finetune_args.json").write_text('{"lora_r": 16}')
    write_package(tuned, tmp_path / "other", base=base, report=no_report)

    first, second = (yaml.safe_load((folder / "MLmodel").read_text()) for folder in (package, tmp_path / "other"))
    assert first["model_uuid"] != second["model_uuid"]


def test_every_id_that_ends_a_reply_is_in_the_generation_config(package, tuned, tmp_path):
    """A model whose files declare only <|endoftext|> would run past <|im_end|> in any other engine."""
    config = json.loads((tuned / "config.json").read_text()) | {"eos_token_id": 0}
    (tuned / "config.json").write_text(json.dumps(config))
    settings = json.loads((tuned / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (tuned / "tokenizer_config.json").write_text(json.dumps(settings))
    (tuned / "template_lock.json").unlink()

    write_package(tuned, tmp_path / "other", report=no_report)

    written = json.loads((tmp_path / "other" / "model" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [0, 2]
    assert ChatTokenizer.from_folder(tmp_path / "other" / "model").end_ids == {0, 2}
    assert json.loads((package / "model" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_requirements_are_pinned_and_can_be_had_anywhere():
    """No local suffix such as +cpu, which PyPI does not have; penala itself is not among them."""
    lines = requirements()

    assert all("==" in line and "+" not in line and not line.startswith("penala") for line in lines)
    assert any(line.startswith("torch==") for line in lines)


def test_a_model_without_a_lock_is_packaged_as_a_base_model(tuned, tmp_path):
    """It was not tuned here."""
    (tuned / "template_lock.json").unlink()

    write_package(tuned, tmp_path / "package", report=no_report)

    metadata = yaml.safe_load((tmp_path / "package" / "MLmodel").read_text())["metadata"]
    assert metadata["is_finetuned_model"] is False
    assert "finetuning_task" not in metadata


def test_another_template_than_the_trained_one_is_refused(tuned, tmp_path):
    """The lock is checked before a byte is written."""
    settings = json.loads((tuned / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"].replace("\n", " ")
    (tuned / "tokenizer_config.json").write_text(json.dumps(settings))

    with pytest.raises(TemplateMismatch, match="golden rendering 1"):
        write_package(tuned, tmp_path / "package", report=no_report)

    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_whole_model_is_refused(tuned, tmp_path, name):
    """The missing file is named."""
    (tuned / name).unlink()

    with pytest.raises(PackageError, match=f"{name} is missing"):
        write_package(tuned, tmp_path / "package", report=no_report)
