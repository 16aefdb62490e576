"""Base models, data, components and computes from the command line, and recipes that name them."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from penala.cli.main import cli
from penala.errors import NotFound, RecipeError, UsageError
from penala.workspace.client import Workspace
from penala.workspace.store import DeploymentRow, EndpointRow

TAGS = {
    "model_specific_defaults": {"learning_rate": "5e-3", "learning_rate_max": "1e-2", "precision": 16, "lora_q": 3},
    "finetune_compute_allow_list": ["Standard_NC24ads_A100_v4"],
}


@pytest.fixture
def penala(tmp_path, monkeypatch):
    """Run a command in an empty folder and return what it printed; a refusal is raised."""
    monkeypatch.chdir(tmp_path)

    def run(*argv, code=0):
        done = CliRunner().invoke(cli, list(argv))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def project(tmp_path, chat_model):
    """Conversations, a model with tags, and a recipe that names both as assets."""
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(12)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(chat_model, tmp_path / "model")
    (tmp_path / "tags.json").write_text(json.dumps(TAGS))
    recipe = {"base_model": "kopi-base", "conversations": {"train": "azureml:rows:1"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def test_a_recipe_may_name_what_was_added(penala, project):
    """Its model and its data; the publisher's defaults run, and those that cannot are named."""
    made = penala("models", "add", "kopi-base", "--from", "model", "--tags", "tags.json")
    assert made.stdout == "azureml://registries/azureml/models/kopi-base/versions/1\n"
    assert penala("data", "add", "rows", "--from", "train.jsonl").stdout == "azureml:rows:1\n"
    (project / "train.jsonl").unlink()  # the asset is a copy

    shown = penala("recipe", "show", "recipe.yaml", "--json", "--set", "finetuning.learning_rate=0.5")
    values = {row["key"]: (row["value"], row["source"]) for row in json.loads(shown.stdout)}
    assert values["finetuning.precision"] == ("16", "model")
    assert values["finetuning.learning_rate"] == (0.5, "you")
    assert "lora_q = 3 is no input of the component: skipped" in shown.stderr
    assert "learning_rate 0.5 is outside the model publisher's 0 to 0.01; yours runs" in shown.stderr
    assert json.loads(penala("recipe", "check", "recipe.yaml", "--json").stdout)["data"]["train"]["good"] == 12
    assert "is fine" in penala("run", "recipe.yaml", "--dry-run").stderr
    kept = json.loads(penala("data", "asset", "rows", "--json").stdout)["path"]
    assert (
        json.loads(penala("data", "tokens", kept, "--model", "kopi-base", "--json").stdout)[0]["text"] == "<|im_start|>"
    )


def test_what_a_recipe_names_and_nobody_added_is_refused(penala, project):
    """With the command that adds it, or the near name."""
    with pytest.raises(NotFound, match="no base model is called 'kopi-base'"):
        penala("recipe", "check", "recipe.yaml")
    with pytest.raises(RecipeError, match="azureml:rows:1: there is no workspace that holds it; `penala data add rows"):
        penala("recipe", "check", "recipe.yaml", "--set", "base_model=./model")
    penala("data", "add", "row", "--from", "train.jsonl")
    with pytest.raises(NotFound, match="no data asset is called 'rows'; did you mean 'row'"):
        penala("recipe", "check", "recipe.yaml", "--set", "base_model=./model")
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml:3: conversations\.train: azureml:a:b:c: names none of the data"
    ):
        penala("recipe", "check", "recipe.yaml", "--set", "conversations.train=azureml:a:b:c")


def test_added_models_are_listed_shown_and_verified(penala, project):
    """Also by the ids that Azure gives them; without a workspace there are the shipped ones."""
    assert len(json.loads(penala("models", "list", "--json").stdout)) == 2
    entry = json.loads(penala("models", "add", "kopi-base", "--from", "model", "--registry", "r", "--json").stdout)

    assert entry["id"] == "azureml://registries/r/models/kopi-base/versions/1"
    assert json.loads(penala("models", "show", entry["id"], "--json").stdout) == entry
    assert "kopi-base" in penala("models", "list").stdout
    assert json.loads(penala("models", "verify", "kopi-base:1", "--json").stdout)["ok"]
    (project / "model" / "config.json").write_text("{}")
    assert "has changed since it was added" in penala("models", "verify", "kopi-base:1", code=1).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "holds no JSON object"), ("{", "is no JSON"), (None, "no such file")],
)
def test_tags_that_cannot_be_read_are_refused(penala, project, text, message):
    """Before the model is looked at; nothing is made."""
    if text is None:
        (project / "tags.json").unlink()
    else:
        (project / "tags.json").write_text(text)

    with pytest.raises(UsageError, match=f"tags.json: {message}"):
        penala("models", "add", "kopi-base", "--from", "model", "--tags", "tags.json")
    assert not (project / ".penala").exists()


def test_computes_are_created_from_the_command_line(penala):
    """A retired size is warned of; the table says which are."""
    made = penala("compute", "create", "gpu-cluster", "--size", "standard_nc6s_v3", "--max-instances", "1")
    assert made.stdout == "gpu-cluster\n"
    assert "warning: Azure retired Standard_NC6s_v3 on 2025-09-30" in made.stderr
    assert "runs on this machine" in made.stderr
    assert "effective batch" in made.stderr

    shown = json.loads(penala("compute", "show", "GPU-CLUSTER", "--json").stdout)
    assert (shown["size"], shown["gpus"], shown["provisioning_state"]) == ("Standard_NC6s_v3", 1, "Succeeded")
    assert [one["name"] for one in json.loads(penala("compute", "list", "--json").stdout)] == ["local", "gpu-cluster"]
    sizes = {one["name"]: one for one in json.loads(penala("compute", "sizes", "--json").stdout)}
    assert sizes["Standard_NC6s_v3"]["retired"] == "2025-09-30"
    assert sizes["Standard_ND40rs_v2"]["gpus"] == 8
    assert "2025-09-30" in penala("compute", "sizes", "--gpu").stdout
    penala("compute", "delete", "gpu-cluster")
    with pytest.raises(NotFound, match="no compute is called 'gpu-cluster'"):
        penala("compute", "show", "gpu-cluster")


def test_reading_needs_no_workspace(penala, tmp_path):
    """There is this machine, and what penala ships; nothing is made."""
    assert json.loads(penala("compute", "show", "local", "--json").stdout)["cores"] > 0
    assert json.loads(penala("compute", "list", "--json").stdout)[0]["name"] == "local"
    assert len(json.loads(penala("components", "list", "--json").stdout)) == 7
    shown = json.loads(penala("components", "show", "chat_completion_pipeline", "--json").stdout)
    assert len(shown["component"]["inputs"]) > 69
    with pytest.raises(NotFound, match="did you mean 'chat_completion_pipeline'"):
        penala("components", "show", "chat_completion_pipelin")
    assert list(tmp_path.iterdir()) == []


def test_components_and_data_are_listed_and_shown(penala, project):
    """As tables and as JSON."""
    component = {"name": "count", "command": "wc ${{inputs.rows}}", "inputs": {"rows": {"type": "uri_file"}}}
    (project / "count.yml").write_text(yaml.safe_dump(component))

    assert penala("components", "add", "-f", "count.yml").stdout == "azureml:count:1\n"
    assert "count" in penala("components", "list").stdout
    assert "rows" in penala("components", "show", "count").stdout
    penala("data", "add", "rows", "--from", "train.jsonl", "--description", "orders")
    assert json.loads(penala("data", "list", "--json").stdout)[0]["description"] == "orders"
    assert json.loads(penala("data", "asset", "rows", "--json").stdout)["type"] == "uri_file"
    assert "orders" in penala("data", "list").stdout
    assert "orders" in penala("data", "asset", "azureml:rows:1").stdout


def test_a_deployment_is_listed_with_its_model_version(penala, tmp_path):
    """The version is what tells two deployments of one model apart."""
    with Workspace.open(create=True) as made:
        made.store.insert(EndpointRow("kopitiam", 1, "Succeeded", {"blue": 100}))
        made.store.insert(DeploymentRow("kopitiam", "blue", "kopitiam", "3", "Succeeded"))

    listed = penala("deployments", "list", "kopitiam").stdout
    assert listed.splitlines()[1].split() == ["blue", "kopitiam:3", "Succeeded"]
