import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from penala.errors import DataError, UsageError
from penala.recipe import Recipe
from penala.workspace.client import Workspace
from penala.workspace.run import pipeline_inputs, preflight, submit

LEAK = "12 rows of validation stand in train too"


@pytest.fixture
def load(tmp_path, chat_model):
    """Load a recipe with good data and a tiny model."""
    turns = [{"role": "user", "content": "kopi?"}, {"role": "assistant", "content": "teh"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"messages": turns, "n": n}) + "\n" for n in range(12)))
    recipe = {"base_model": str(chat_model), "conversations": {"train": "train.jsonl"}, "endpoint": {"name": "kopi"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return lambda *overrides: Recipe.load(tmp_path / "recipe.yaml", overrides)


@pytest.fixture
def make(workspace, monkeypatch):
    """Make the job of a recipe without starting it, and return its row."""
    monkeypatch.setattr(workspace.jobs, "start", lambda name: True)

    def make(recipe, **options):
        return workspace.jobs.row(submit(workspace, recipe, preflight(recipe, workspace), **options))

    return make


def test_a_job_knows_the_recipe_and_the_command_that_made_it(workspace, make, load):
    """The text as it was, the flags, the workspace: enough to make the same again from any folder."""
    recipe = load("finetuning.lora_r=4", "model.name=my-kopi")
    about = make(recipe, deploy=False).about

    assert about["recipe"] == {"file": str(recipe.file), "text": recipe.file.read_text()}
    assert shlex.split(about["command"]) == [
        *("penala", "--workspace", str(workspace.folder), "run", str(recipe.file)),
        *("--set", "finetuning.lora_r=4", "--set", "model.name=my-kopi", "--no-deploy"),
    ]


def test_an_added_model_goes_into_the_plan_by_its_files_and_its_name(workspace, make, load, chat_model):
    """The files decide what is run again; the name, version and settings go on with the model."""
    entry = workspace.models.add("kopi-base", str(chat_model), finetune_config={"lora_target_modules": ["q_proj"]})
    steps = make(load("base_model=kopi-base@latest")).spec["plan"]["steps"]

    inputs = next(step["inputs"] for step in steps if step["component"] == "chat_completion_model_import")
    record = json.loads(inputs["catalogue_model"]["text"])
    assert inputs["pytorch_model_path"]["path"] == str(chat_model)
    assert (record["name"], record["version"], record["created"]) == ("kopi-base", "1", entry.created)
    assert record["finetune_config"] == {"lora_target_modules": ["q_proj"]}
    assert "sources" not in record


def test_the_check_says_how_train_is_cut_and_what_is_left_out(load, tmp_path):
    """What the data step would refuse, or say, is told before anything starts."""
    rows = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "bad.jsonl").write_text(rows + "{}\n")
    notes = preflight(load("conversations.validation=train.jsonl", "conversations.test=none")).notes

    assert notes == ["train: rows 1-12 (12) of 12; validation: 12 rows of its own; no test; " + LEAK]
    notes = preflight(load("conversations.train=bad.jsonl", "conversations.on_bad_row=drop")).notes
    assert notes[0].startswith("train: 1 of 13 rows are bad and left out; `penala data check ")
    assert notes[1].startswith("train: rows 1-10 (10) of 12; validation: rows 11-11 (1), cut off train (10 %); test: ")
    with pytest.raises(DataError, match=r"recipe.yaml: conversations: 7 of 12 rows are left .*, fewer than 10"):
        preflight(load("conversations.test=40%", "conversations.validation=none"))
    with pytest.raises(UsageError, match=r"recipe.yaml: conversations: 60 % and 60 % leave nothing"):
        preflight(load("conversations.test=60%", "conversations.validation=60%"))


def test_rows_on_the_hub_are_not_said_to_be_none(load, monkeypatch):
    """They are looked up, not read: how many there are is the hub's to say."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    notes = preflight(load("conversations.validation=hf://datasets/kopi/teh/test", "conversations.test=none")).notes

    assert notes[0].startswith("validation: hf://datasets/kopi/teh/test cannot be looked up now (")
    assert notes[1:] == ["train: rows 1-12 (12) of 12; no test"]


def test_a_data_asset_goes_into_the_plan_by_its_kept_file(workspace, make, load, tmp_path):
    """What the user did to the file meanwhile does not matter."""
    row = workspace.data.add("rows", tmp_path / "train.jsonl")
    recipe = load("conversations.train=azureml:rows@latest")
    (tmp_path / "train.jsonl").unlink()

    steps = make(recipe).spec["plan"]["steps"]

    given = [step["inputs"]["train_file_path"] for step in steps if "train_file_path" in step["inputs"]]
    assert given
    assert all(one == {"path": str(workspace.data.path(row)), "digest": row.digest} for one in given)


def test_the_files_of_a_glob_are_copied_once_by_several_at_once(workspace, load, tmp_path):
    """All runs of the recipe read the same folder, and nothing half written is left beside it."""
    rows = (tmp_path / "train.jsonl").read_text()
    for number in range(20):
        (tmp_path / f"part-{number}.jsonl").write_text(rows.replace("kopi", f"kopi {number}"))
    recipe = load("conversations.train=part-*.jsonl")
    checked = preflight(recipe)

    def copy(_):
        with Workspace.open(workspace.folder) as opened:
            return Path(pipeline_inputs(opened, recipe, checked, print)["train_file_path"])

    with ThreadPoolExecutor(8) as pool:
        (folder,) = set(pool.map(copy, range(8)))
    assert [file.name for file in sorted(folder.iterdir())][:2] == ["00000-part-0.jsonl", "00001-part-1.jsonl"]
    assert list(folder.parent.iterdir()) == [folder]
