"""`penala run RECIPE --on azureml` against the fake: what it sends, what it says, and how each step fails."""

import json

import pytest
import yaml
from fake_azure import contents

RECIPE = {
    "base_model": "Phi-4",
    "conversations": {"train": "data/train.jsonl"},
    "finetuning": {"num_train_epochs": 2},
    "model": {"name": "kopi"},
    "endpoint": {"name": "kopi-answers", "deployment": "demo"},
    "sample": {"messages": [{"role": "user", "content": "Kopi kosong?"}]},
    "azureml": {
        "compute": {"name": "gpu-cluster", "size": contents.A100},
        "instance_type": contents.A100,
    },
}


@pytest.fixture
def recipe(place):
    """A recipe that runs on the fake, with its conversations; returns a function that writes it with changes."""
    contents.write_conversations(place / "data" / "train.jsonl")

    def write(**changes):
        file = place / "recipe.yaml"
        merged = {key: value for key, value in (RECIPE | changes).items() if value is not None}
        file.write_text(yaml.safe_dump(merged), encoding="utf-8")
        return file

    write()
    return write


@pytest.fixture
def penala(monkeypatch, capsys):
    """Run a command line in this process; return its exit code, what stdout got and what stderr got."""
    from penala.cli.main import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["penala", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def on_azure(penala):
    """Run the recipe on Azure with --yes and --json; return its exit code, its result and what stderr got."""

    def run(*more):
        code, out, err = penala("run", "recipe.yaml", "--on", "azureml", "--yes", "--json", *more)
        return code, json.loads(out.splitlines()[-1]), err

    return run


def test_a_recipe_runs_to_the_reply_of_its_endpoint(azure, recipe, on_azure):
    """One command: cluster, job, model version with lineage, endpoint, reply; the result line says it all."""
    code, result, err = on_azure()

    assert code == 0, err
    job = result["job"]
    assert result == {
        "event": "result",
        "status": "Completed",
        "job": job,
        "error": None,
        "model": {"name": "kopi", "version": "1"},
        "endpoint": {
            "name": "kopi-answers",
            "scoring_uri": "https://kopi-answers.eastus.inference.ml.azure.com/score",
            "openai_base_url": None,
        },
        "ledger": None,
        "training": None,
        "evaluation": None,
        "reply": "from demo",
    }
    (model,) = azure.proxy.sent("PUT", "/models/kopi/versions/1")
    assert model.json["properties"]["modelUri"] == f"azureml://jobs/{job}/outputs/trained_model"
    assert model.json["properties"]["properties"]["base_model"] == "Phi-4:7"
