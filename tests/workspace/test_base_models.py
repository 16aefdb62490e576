import ast
import json
import shutil
import struct
from pathlib import Path

import pytest

from penala.basemodel.catalogue import FolderSource, GgufSource, HubSource, MlflowSource
from penala.errors import ModelError, NotFound, UsageError
from penala.recipe import resolve_finetuning
from penala.workspace.models import register

# what a publisher's tags hold: numbers as text, integers for text, names that no component declares
DEFAULTS = {
    "apply_lora": "true",
    "deepspeed_stage": 2,
    "precision": 16,
    "learning_rate": "5e-6",
    "learning_rate_min": "5e-7",
    "learning_rate_max": 5e-5,
    "num_train_epochs": 2,
    "sku_to_num_replicas_map": {"Default": 1},
    "warmup_share": 0.1,
    "lora_r": "many",
}


@pytest.fixture
def model(chat_model, tmp_path):
    """A model folder of the user's."""
    return Path(shutil.copytree(chat_model, tmp_path / "kopi-base"))


def notes():
    texts = []
    return texts, lambda event: texts.append(event.get("text"))


def test_a_folder_becomes_an_entry_of_the_catalogue(workspace, model):
    """What its files tell stands in it; every name that means it finds it."""
    entry = workspace.models.add("kopi-base", str(model), registry="azureml-mine")

    assert entry.sources == (FolderSource(str(model)),)
    assert (entry.version, entry.model_type, entry.context, entry.task) == ("1", "llama", 256, "chat-completion")
    assert entry.parameters > 0
    for name in (
        "kopi-base",
        "kopi-base:1",
        "azureml:kopi-base@latest",
        "azureml://registries/azureml-mine/models/kopi-base/versions/1",
        "azureml://registries/another/models/kopi-base/labels/latest",
    ):
        assert workspace.models.resolve(name) == workspace.models.find(name) == entry
    assert workspace.models.show("kopi-base")["id"] == "azureml://registries/azureml-mine/models/kopi-base/versions/1"


def test_tags_are_kept_as_the_sdk_makes_them(workspace, model):
    """Text as it is; a number, a list, true and null as Python writes them; literal_eval gives them back."""
    tags = {"text": "a, 'b'", "allow": ["Standard_ND40rs_v2"], "yes": True, "none": None, "n": 3, "d": {"x": "5e-6"}}

    found = workspace.models.add("kopi-base", str(model), tags=tags, properties={"gpus": [1]}).tags

    assert (found["text"], found["allow"], found["yes"]) == ("a, 'b'", "['Standard_ND40rs_v2']", "True")
    assert {key: ast.literal_eval(found[key]) for key in ("none", "n", "d")} == {
        "none": None,
        "n": 3,
        "d": {"x": "5e-6"},
    }
    assert workspace.models.show("kopi-base")["properties"] == {"gpus": "[1]"}


def test_a_publishers_defaults_run_and_those_that_cannot_are_named(workspace, model):
    """5e-6 as text, an integer for a text with choices, bounds; what no component declares is skipped by name."""
    entry = workspace.models.add("kopi-base", str(model), tags={"model_specific_defaults": DEFAULTS})

    settings, told = resolve_finetuning({"learning_rate": 1e-3}, entry.model_defaults)

    values = {setting.name: (setting.value, setting.source) for setting in settings}
    assert values["precision"] == ("16", "model")
    assert values["num_train_epochs"] == (2, "model")
    assert values["learning_rate"] == (1e-3, "you")
    assert (values["learning_rate_min"][0], values["learning_rate_max"][0]) == (5e-7, 5e-5)
    assert any(
        "learning_rate 0.001 is outside the model publisher's 5e-07 to 5e-05; yours runs" in text for text in told
    )
    for name in ("sku_to_num_replicas_map", "warmup_share", "lora_r"):
        assert any(f"default {name} = " in text for text in told)
    assert {s.name: s.value for s in resolve_finetuning({}, entry.model_defaults)[0]}["learning_rate"] == 5e-6


@pytest.mark.parametrize("value", ["false", False, "False"])
def test_a_default_that_turns_lora_off_is_heeded_unless_the_recipe_sets_lora(workspace, model, value):
    """Phi-3-medium's tags turn LoRA off: all weights are trained, at a rate for that. A rank of yours turns it on."""
    entry = workspace.models.add("kopi-base", str(model), tags={"model_specific_defaults": {"apply_lora": value}})

    settings, told = resolve_finetuning({}, entry.model_defaults)
    own, said = resolve_finetuning({"lora_r": 4}, entry.model_defaults)

    values = {setting.name: setting.value for setting in settings}
    assert (values["apply_lora"], values["learning_rate"], told) == ("false", 2e-5, [])
    assert {setting.name: setting.value for setting in own}["apply_lora"] == "true"
    assert said == [f"the model's default apply_lora = {value}: the recipe sets LoRA's inputs; the default stays"]


def test_a_defaults_tag_that_cannot_be_read_is_refused_at_once(workspace, model):
    """Not when the first recipe uses it."""
    with pytest.raises(ModelError, match="kopi-base:1: tag model_specific_defaults: is no Python literal"):
        workspace.models.add("kopi-base", str(model), tags={"model_specific_defaults": "{"})


def test_versions_count_up_and_the_same_keeps_its_own(workspace, model):
    """Other tags are another version; latest is what was added last, also over a shipped entry."""
    first = workspace.models.add("kopi-base", str(model))
    assert workspace.models.add("kopi-base", str(model)) == first
    assert workspace.models.add("kopi-base", f"{model.parent}/./{model.name}/") == first
    assert workspace.models.add("kopi-base", str(model), tags={"a": "b"}).version == "2"
    workspace.models.add("kopi-base", str(model), "1.5", tags={"a": "c"})

    assert workspace.models.resolve("kopi-base").version == "1.5"
    with pytest.raises(UsageError, match="kopi-base:1: is there already, with other content; choose another version"):
        workspace.models.add("kopi-base", str(model), "1", tags={"a": "d"})
    assert workspace.models.add("Phi-3-mini-4k-instruct", str(model)).version == "16"
    assert workspace.models.resolve("Phi-3-mini-4k-instruct").sources == (FolderSource(str(model)),)
    assert isinstance(workspace.models.resolve("Phi-3-mini-4k-instruct:15").sources[0], HubSource)


def test_the_list_holds_what_was_added_by_task(workspace, model):
    """The tag task, or the flag."""
    workspace.models.add("kopi-base", str(model), tags={"task": "text-generation"})
    workspace.models.add("teh-base", str(model), task="translation")

    assert [one["name"] for one in workspace.models.list("text-generation")] == ["kopi-base"]
    assert [one["name"] for one in workspace.models.list("translation")] == ["teh-base"]
    assert {"kopi-base", "teh-base", "SmolLM2-135M-Instruct"} <= {one["name"] for one in workspace.models.list()}


def test_a_model_that_is_gone_or_changed_is_named(workspace, model):
    """Before a job starts; putting it back, or adding it again, helps."""
    workspace.models.add("kopi-base", str(model))
    template = (model / "tokenizer_config.json").read_text()

    (model / "tokenizer_config.json").write_text(template + " ")
    with pytest.raises(
        ModelError, match=r"kopi-base:1: .*has changed since it was added; `penala models add kopi-base"
    ):
        workspace.models.resolve("kopi-base")
    (model / "tokenizer_config.json").write_text(template)
    assert workspace.models.resolve("kopi-base").version == "1"

    model.rename(model.with_name("moved"))
    with pytest.raises(ModelError, match=r"kopi-base:1: .*its files are gone; put it back, or `penala models add"):
        workspace.models.resolve("kopi-base")
    assert workspace.models.show("kopi-base")["name"] == "kopi-base"


def test_files_beside_the_model_do_not_count(workspace, model):
    """A README written later changes no model."""
    workspace.models.add("kopi-base", str(model))
    (model / "README.md").write_text("notes")

    assert workspace.models.resolve("kopi-base").version == "1"


def test_gguf_files_and_hub_ids_can_be_added(workspace, tmp_path):
    """A hub id is looked at when it is fetched; a GGUF file must be a whole one, with a chat template."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def gguf(*pairs):
        body = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs)
        return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body

    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf(("general.architecture", "llama"), ("tokenizer.chat_template", "{{ messages }}")))
    entry = workspace.models.add("tiny", str(file))
    assert (entry.sources, entry.model_type) == ((GgufSource(str(file)),), "llama")
    assert workspace.models.add("phi", "microsoft/phi-2").sources == (HubSource("microsoft/phi-2"),)

    file.write_bytes(gguf(("general.architecture", "llama")))
    with pytest.raises(ModelError, match=r"tiny\.gguf: has no chat template"):
        workspace.models.add("other", str(file))


@pytest.mark.parametrize(
    ("name", "source", "error", "message"),
    [
        ("a:b", "{model}", UsageError, "is no name of an asset"),
        ("kopi", "./gone", ModelError, "no such file or folder"),
        ("kopi", "{model}/config.json", ModelError, "is no model"),
        ("tuned", "{model}", UsageError, "is the name of a tuned model"),
    ],
)
def test_what_cannot_be_added_is_refused(workspace, model, name, source, error, message):
    """And the catalogue stays as it was."""
    (workspace.artifacts / "a").mkdir()
    register(workspace.store, "tuned", None, "a")

    with pytest.raises(error, match=message):
        workspace.models.add(name, source.format(model=model))

    assert "kopi" not in {one["name"] for one in workspace.models.list()}


def test_the_mlflow_folder_of_a_base_model_is_made_once(workspace, model):
    """It carries the entry's name and its fine-tuning settings; a download is a copy."""
    config = {"lora_target_modules": ["q_proj"], "chat_special_tokens": {"response_template": "<|im_start|>assistant"}}
    entry = workspace.models.add("kopi-base", str(model), finetune_config=config)
    texts, report = notes()

    folder = workspace.models.folder("kopi-base@latest", report)

    assert workspace.models.folder("azureml://registries/r/models/kopi-base/versions/1", report) == folder
    assert json.loads((folder / "finetune_config.json").read_text()) == config
    assert "chat_special_tokens of the model's finetune_config.json has no effect here" in texts
    again = workspace.models.add("again", str(folder))
    assert (again.parameters, again.context) == (entry.parameters, entry.context)
    assert isinstance(again.sources[0], MlflowSource)
    copy = workspace.models.download("kopi-base", workspace.folder / "copy")
    assert (copy / "MLmodel").read_text() == (folder / "MLmodel").read_text()
    assert "base_model_name: kopi-base" in (copy / "MLmodel").read_text()
    assert f"base_model_asset_id: {entry.id}" in (copy / "MLmodel").read_text()


def test_a_tuned_version_can_be_tuned_again(workspace, model):
    """Its name means its package, unless a base model has that name."""
    workspace.models.add("kopi-base", str(model))
    package = workspace.models.folder("kopi-base")
    for name in ("kopi", "kopi-base"):
        shutil.copytree(package, workspace.artifacts / name)
        register(workspace.store, name, None, name)

    assert workspace.models.resolve("kopi:1").sources == (MlflowSource(str(workspace.artifacts / "kopi")),)
    assert workspace.models.resolve("kopi-base:1").sources == (FolderSource(str(model)),)


def test_an_unknown_name_is_answered_with_the_near_one(workspace, model):
    """Of the user's own entries too."""
    workspace.models.add("kopi-base", str(model))

    for find in (workspace.models.resolve, workspace.models.find):
        with pytest.raises(NotFound, match="did you mean 'kopi-base'"):
            find("kopi-bas")
