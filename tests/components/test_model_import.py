import json
import shutil

import pytest

from penala.components.chat_completion_model_import import body
from penala.errors import ModelError

RECORD = {"name": "kopi-base", "version": "7", "created": "2026-01-01", "licence": "MIT"}


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Run the step on these inputs, and return the JSON files that it wrote by their names."""
    monkeypatch.setenv("PENALA_CACHE", str(tmp_path / "cache"))

    def run(**given):
        names = ("pytorch_model_path", "mlflow_model_path", "huggingface_id", "catalogue_model", "finetune_config_path")
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        body({name: given.get(name) for name in names} | {"output_dir": out}, lambda event: None)
        return {
            name: json.loads((out / f"{name}.json").read_text()) for name in ("model_selector_args", "finetune_config")
        }

    return run


def test_a_record_says_what_the_weights_of_a_path_are(imported, chat_model):
    """An entry of the user's own: its name, version and licence go on with the model."""
    found = imported(pytorch_model_path=chat_model, catalogue_model=json.dumps(RECORD))["model_selector_args"]

    assert (found["model_name"], found["model_version"], found["licence"]) == ("kopi-base", "7", "MIT")
    assert found["model_asset_id"] == "azureml://registries/azureml/models/kopi-base/versions/7"


def test_a_record_with_sources_needs_no_path(imported, chat_model):
    """That is how an entry on the hub comes."""
    record = RECORD | {"sources": [{"kind": "folder", "path": str(chat_model)}]}

    assert imported(catalogue_model=json.dumps(record))["model_selector_args"]["model_name"] == "kopi-base"


def test_a_path_alone_has_no_version(imported, chat_model):
    """It is no entry of a catalogue."""
    found = imported(pytorch_model_path=chat_model)["model_selector_args"]

    assert (found["model_name"], found["model_version"], found["model_asset_id"]) == (chat_model.name, None, None)


def test_the_nearer_finetune_config_wins_key_by_key(imported, chat_model, tmp_path):
    """The job's file over the catalogue's entry, over the file beside the weights, over all linear layers."""
    model = shutil.copytree(chat_model, tmp_path / "model")
    everything = imported(pytorch_model_path=model)["finetune_config"]["lora_target_modules"]
    (model / "finetune_config.json").write_text(json.dumps({"lora_target_modules": ["q_proj"], "lora_algo": "peft"}))
    in_second_form = {"version": "2", "task_specific_config": {"ChatCompletion": {"lora_target_modules": ["v_proj"]}}}
    record = json.dumps(RECORD | {"finetune_config": in_second_form})
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"lora_target_modules": ["o_proj"]}))

    assert len(everything) > 1
    assert imported(pytorch_model_path=model)["finetune_config"]["lora_target_modules"] == ["q_proj"]
    found = imported(pytorch_model_path=model, catalogue_model=record)["finetune_config"]
    assert found == {"lora_target_modules": ["v_proj"], "lora_algo": "peft"}
    found = imported(pytorch_model_path=model, catalogue_model=record, finetune_config_path=given)["finetune_config"]
    assert found == {"lora_target_modules": ["o_proj"], "lora_algo": "peft"}


def test_without_a_model_the_inputs_are_named(imported):
    """As Azure's step does, in its order."""
    with pytest.raises(ModelError, match="no base model is given; set one of pytorch_model_path, mlflow_model_path"):
        imported()
