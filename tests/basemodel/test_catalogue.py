import ast
from pathlib import Path

import pytest

from penala.basemodel.catalogue import (
    FolderSource,
    GgufSource,
    HubSource,
    MlflowSource,
    WheelSource,
    entries,
    entry_from,
    entry_of,
    get,
    resolve,
)
from penala.errors import ModelError, NotFound, UsageError

MINE = {"name": "mine", "sources": [{"kind": "hub", "repo": "me/mine"}]}


def mine(**fields):
    return entry_from(MINE | fields)


def test_the_catalogue_holds_the_model_of_the_demo_and_the_one_of_the_tutorial():
    """Both are chat models with a version, a licence, a size and a context."""
    found = {entry.name: entry for entry in entries("chat-completion")}

    assert set(found) == {"SmolLM2-135M-Instruct", "Phi-3-mini-4k-instruct"}
    assert all(e.version and e.licence and e.parameters and e.context for e in found.values())


def test_entries_are_found_by_task():
    """A task that no model has gives an empty list."""
    assert entries("text-classification") == []


def test_lists_and_dicts_in_tags_are_the_text_of_python_literals():
    """A client that calls ast.literal_eval on them, as Azure's tutorial does, gets a list and a dict."""
    tags = get("Phi-3-mini-4k-instruct").tags

    assert all(isinstance(value, str) for value in tags.values())
    assert ast.literal_eval(tags["finetune_compute_allow_list"])[0] == "Standard_NC24ads_A100_v4"
    defaults = ast.literal_eval(tags["model_specific_defaults"])
    assert defaults["deepspeed_stage"] == 2
    assert defaults["learning_rate"] == "5e-6"


def test_model_defaults_turn_numeric_text_into_numbers_and_leave_other_text():
    """'5e-6', which YAML 1.1 takes for text, is a number; 'true' and 'cosine' stay text."""
    defaults = get("Phi-3-mini-4k-instruct").model_defaults

    assert defaults["learning_rate"] == 5e-6
    assert defaults["apply_lora"] == "true"
    assert defaults["lr_scheduler_type"] == "cosine"


def test_bounds_are_read_from_the_min_and_max_beside_a_default():
    """A model whose publisher gives none has none."""
    assert get("Phi-3-mini-4k-instruct").bounds == {"learning_rate": (5e-7, 5e-5)}
    assert mine().bounds == {}


@pytest.mark.parametrize("tag", ["{", "[1, 2]", "__import__('os')"])
def test_a_broken_defaults_tag_is_refused_by_name(tag):
    """Nothing in a tag is executed; what is no literal of a dict is a ModelError that names the tag."""
    with pytest.raises(ModelError, match="mine:1: tag model_specific_defaults: is "):
        _ = mine(tags={"model_specific_defaults": tag}).model_defaults


def test_names_are_found_with_a_version_a_label_or_neither():
    """NAME, NAME:VERSION, NAME@latest and a second argument all find the entry; letter case does not matter."""
    wanted = get("Phi-3-mini-4k-instruct")

    assert wanted.version == "15"
    for name in ("phi-3-mini-4k-instruct", "Phi-3-mini-4k-instruct:15", "Phi-3-mini-4k-instruct@latest"):
        assert get(name) == wanted
    assert get("Phi-3-mini-4k-instruct", "15") == wanted


def test_latest_is_the_newest_by_date_not_by_number():
    """Azure's label=latest means the version that was created last."""
    extra = [mine(version="10", created="2025-01-01"), mine(version="9", created="2026-01-01")]

    assert get("mine", extra=extra).version == "9"
    assert get("mine", "10", extra=extra).version == "10"


def test_an_unknown_name_is_answered_with_the_near_one():
    """So is an unknown version, with the known ones."""
    with pytest.raises(NotFound, match="did you mean 'SmolLM2-135M-Instruct'"):
        get("SmolLM2-135M-Instuct")
    with pytest.raises(NotFound, match="no version '7'; its versions: 15"):
        get("Phi-3-mini-4k-instruct:7")


def test_an_entry_survives_the_way_through_plain_json():
    """to_dict and entry_from are inverse, so that a workspace can keep entries of its own."""
    for entry in entries():
        assert entry_from(entry.to_dict()) == entry


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "x"}, "sources"),
        (MINE | {"licens": "MIT"}, "licens"),
        (MINE | {"sources": [{"kind": "floppy"}]}, "floppy"),
        (MINE | {"parameters": "many"}, "parameters"),
        (MINE | {"tags": [1]}, "tags is no mapping"),
    ],
)
def test_a_broken_entry_is_refused_with_its_field(record, message):
    """Each fault is a ModelError that says where and which."""
    with pytest.raises(ModelError, match=message):
        entry_from(record, where="mine.yaml")


def test_resolve_knows_names_asset_ids_paths_and_hub_ids(tmp_path, llama):
    """What a recipe's base_model may say becomes an entry with the right source."""
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "MLmodel").write_text("flavors: {}")
    asset = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct"

    assert isinstance(resolve("SmolLM2-135M-Instruct:1").sources[0], WheelSource)
    assert resolve(f"{asset}/versions/15") == resolve(f"{asset}/labels/latest") == get("Phi-3-mini-4k-instruct")
    assert resolve(str(llama)).sources == (FolderSource(str(llama)),)
    assert resolve("tiny-llama", folder=tmp_path).sources == (FolderSource(str(llama)),)
    assert isinstance(resolve("./packed", folder=tmp_path).sources[0], MlflowSource)
    assert resolve("x.gguf", folder=tmp_path).sources == (GgufSource(str(tmp_path / "x.gguf")),)
    assert resolve("microsoft/phi-2").sources == (HubSource("microsoft/phi-2"),)


def test_a_catalogue_name_wins_over_a_folder_of_that_name(tmp_path):
    """./NAME means the folder."""
    (tmp_path / "SmolLM2-135M-Instruct").mkdir()

    assert isinstance(resolve("SmolLM2-135M-Instruct", folder=tmp_path).sources[0], WheelSource)
    assert isinstance(resolve("./SmolLM2-135M-Instruct", folder=tmp_path).sources[0], FolderSource)


def test_a_path_is_a_path_whatever_it_is_called(llama, tmp_path, monkeypatch):
    """A step gets the user's folder as a Path, and takes no catalogue entry for it."""
    llama.rename(tmp_path / "SmolLM2-135M-Instruct")
    monkeypatch.chdir(tmp_path)

    entry = entry_of(Path("SmolLM2-135M-Instruct"))

    assert entry.sources == (FolderSource(str(tmp_path / "SmolLM2-135M-Instruct")),)
    assert entry_of("SmolLM2-135M-Instruct") == get("SmolLM2-135M-Instruct") == entry_of(get("SmolLM2-135M-Instruct"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonesuch", "hub id"),
        ("./nowhere", "no such file or folder"),
        ("~$rows.gguf", "no such file or folder"),
        ("azureml://registries/azureml/models/x", "versions/VERSION"),
    ],
)
def test_what_means_nothing_is_refused_with_the_ways_to_say_it(tmp_path, text, message):
    """A name that nothing answers to, a path that is not there and half an asset id are told apart."""
    with pytest.raises((NotFound, ModelError, UsageError), match=message):
        resolve(text, folder=tmp_path)
