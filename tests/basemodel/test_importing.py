import json

import pytest

from penala.basemodel.catalogue import Entry, FolderSource
from penala.basemodel.importing import import_model
from penala.errors import ModelError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_mlflow(model, folder, flavour, parts):
    """Spread a plain folder over the parts of an MLflow folder: weights, config and tokenizer in this order."""
    folder.mkdir()
    settings = {"huggingface_id": "me/tiny"} if flavour != "transformers" else {}
    mlmodel = {"flavors": {flavour: settings}, "metadata": {"base_model_name": "Tiny"}}
    (folder / "MLmodel").write_text(json.dumps(mlmodel))
    for path in list(model.iterdir()):
        part = parts[-1] if path.name.startswith("tokenizer") else parts[-2] if path.name == "config.json" else parts[0]
        (folder / part).mkdir(parents=True, exist_ok=True)
        path.rename(folder / part / path.name)
    return folder


def test_an_import_says_what_training_needs_to_know(llama, tmp_path, notes):
    """Beside the model lie its name and size, and the layers that LoRA goes to."""
    figures = import_model(llama, tmp_path / "out", tmp_path / "cache", notes[1])

    selector = json.loads((tmp_path / "out" / "model_selector_args.json").read_text())
    finetune = json.loads((tmp_path / "out" / "finetune_config.json").read_text())
    assert selector["model_name"] == "tiny-llama"
    assert selector["source"] == {"kind": "folder", "name": "tiny-llama"}
    assert selector["context"] == 256
    assert selector["parameters"] == figures["parameters"] > 0
    assert finetune["lora_target_modules"] == sorted(finetune["lora_target_modules"])
    assert "qkv_proj" not in finetune["lora_target_modules"]


def test_two_imports_give_the_same_bytes_wherever_they_lie(llama, tmp_path, notes):
    """Neither a path nor a time gets into the imported folder."""
    moved = tmp_path / "elsewhere" / llama.name
    import_model(llama, tmp_path / "a", tmp_path / "cache", notes[1])
    moved.parent.mkdir()
    llama.rename(moved)
    import_model(moved, tmp_path / "b", tmp_path / "other cache", notes[1])

    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_folder_of_the_users_is_copied(llama, tmp_path, notes):
    """What the user later writes into the same file does not reach the imported model."""
    import_model(llama, tmp_path / "out", tmp_path / "cache", notes[1])
    before = contents(tmp_path / "out")

    with (llama / "model.safetensors").open("r+b") as file:
        file.write(b"changed!")

    assert contents(tmp_path / "out") == before


def test_a_model_of_the_cache_is_linked(llama, tmp_path, notes):
    """Its weights lie on the disk once."""
    cached = tmp_path / "cache" / "models" / "tiny"
    cached.parent.mkdir(parents=True)
    llama.rename(cached)

    import_model(cached, tmp_path / "out", tmp_path / "cache", notes[1])

    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).stat().st_ino == (cached / weights).stat().st_ino


@pytest.mark.parametrize(
    ("flavour", "parts", "name"),
    [
        ("transformers", ("model", "model", "components/tokenizer"), "Tiny"),
        ("hftransformersv2", ("data/model", "data/config", "data/tokenizer"), "me/tiny"),
        ("hftransformers", ("data/model", "data/config", "data/tokenizer"), "me/tiny"),
    ],
)
def test_mlflow_folders_of_the_three_flavours_are_taken(llama, tmp_path, notes, flavour, parts, name):
    """The parts come together again; the name is the flavour's huggingface_id, else the one in the metadata."""
    plain = contents(llama)
    folder = as_mlflow(llama, tmp_path / "packed", flavour, parts)

    import_model(folder, tmp_path / "out", tmp_path / "cache", notes[1])

    imported = contents(tmp_path / "out")
    assert {key: imported[key] for key in plain} == plain
    assert json.loads(imported["model_selector_args.json"])["model_name"] == name
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_an_mlflow_folder_of_ours_tells_which_base_model_it_is(llama, tmp_path, notes):
    """Its id and its licence go on, so that a job that took the folder still knows the model by name."""
    folder = as_mlflow(llama, tmp_path / "packed", "transformers", ("model", "model", "components/tokenizer"))
    asset_id = "azureml://registries/r/models/Kopi/versions/2"
    mlmodel = json.loads((folder / "MLmodel").read_text())
    mlmodel["metadata"] = {"base_model_name": "Kopi", "base_model_asset_id": asset_id, "license": "MIT"}
    (folder / "MLmodel").write_text(json.dumps(mlmodel))

    import_model(folder, tmp_path / "out", tmp_path / "cache", notes[1])

    found = json.loads((tmp_path / "out" / "model_selector_args.json").read_text())
    assert (found["model_name"], found["licence"]) == ("Kopi", "MIT")
    assert found["model_asset_id"] == asset_id
    assert notes[0][-1].startswith("Kopi: ")


def test_other_mlflow_flavours_are_refused_by_name(llama, tmp_path, notes):
    """A scikit-learn model is no chat model; the three that are taken are listed."""
    folder = as_mlflow(llama, tmp_path / "packed", "sklearn", ("model", "model", "model"))

    with pytest.raises(ModelError, match="no flavour that holds a chat model: sklearn; use a model with one of transf"):
        import_model(folder, tmp_path / "out", tmp_path / "cache", notes[1])


@pytest.mark.parametrize("text", [b"", b"flavors: [", b"just text", b"name: \xe9", b"saved: 2024-13-45"])
def test_an_mlmodel_file_that_cannot_be_read_is_refused(llama, tmp_path, notes, text):
    """Empty, broken or something else: the error names the file."""
    (llama / "MLmodel").write_bytes(text)

    with pytest.raises(ModelError, match="MLmodel: is no MLmodel file"):
        import_model(llama, tmp_path / "out", tmp_path / "cache", notes[1])


@pytest.mark.parametrize(
    "config",
    [
        {"lora_target_modules": ["q_proj"], "lora_algo": "peft"},
        {
            "version": "2",
            "task_specific_config": {"ChatCompletion": {"lora_target_modules": ["q_proj"], "lora_algo": "peft"}},
        },
    ],
)
def test_a_finetune_config_beside_the_model_wins(llama, tmp_path, notes, config):
    """In Azure's first form and in its second."""
    (llama / "finetune_config.json").write_text(json.dumps(config))

    import_model(llama, tmp_path / "out", tmp_path / "cache", notes[1])

    written = json.loads((tmp_path / "out" / "finetune_config.json").read_text())
    assert written == {"lora_target_modules": ["q_proj"], "lora_algo": "peft"}


def test_a_catalogued_model_carries_its_asset_id(llama, tmp_path, notes):
    """Azure's id of the registry model is recorded for entries of the catalogue, and for nothing else."""
    entry = Entry(name="mine", version="3", created="2026-01-01", licence="MIT", sources=(FolderSource(str(llama)),))

    import_model(entry, tmp_path / "out", tmp_path / "cache", notes[1])

    selector = json.loads((tmp_path / "out" / "model_selector_args.json").read_text())
    assert selector["model_asset_id"] == "azureml://registries/azureml/models/mine/versions/3"
    assert (selector["model_version"], selector["licence"]) == ("3", "MIT")
