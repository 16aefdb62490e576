"""A recipe becomes Azure ML's YAML, which the SDK's own loaders take and which runs here as it is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.ai.ml import load_component, load_compute, load_job, load_online_deployment, load_online_endpoint

from penala.inputs import PIPELINE
from penala.workspace.client import Workspace

STEPS = ["chat_completion_datapreprocess", "chat_completion_evaluation", "chat_completion_finetune"]


@pytest.fixture
def project(tmp_path, chat_model) -> Path:
    """A folder with a recipe and its conversations."""
    talk = [{"role": "user", "content": "kopi?"}, {"role": "assistant", "content": "teh"}]
    rows = [json.dumps({"messages": talk, "number": number}) for number in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    recipe = {
        "base_model": str(chat_model),
        "conversations": {"train": "train.jsonl", "validation": "20%", "test": "none"},
        "finetuning": {"max_steps": 2, "lora_r": 4, "learning_rate": 0.01},
        "model": {"name": "tiny"},
        "endpoint": {"name": "tiny-chat", "request_settings": {"request_timeout_ms": 90_000}},
        "azureml": {"compute": {"name": "gpu-cluster", "size": "Standard_ND40rs_v2"}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def penala(project) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program in the project's folder."""

    def penala(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "penala", "--workspace", "ws", *argv],
            cwd=project,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return penala


def test_the_sdk_s_loaders_take_every_file(project, penala):
    """Job, pipeline and step components, compute, endpoint, deployment: each says what the recipe says."""
    done = penala("recipe", "export", "recipe.yaml", "--to", "azureml", "out")

    assert done.returncode == 0, done.stderr
    out = project / "out"
    names = ["job.yml", "compute.yml", "endpoint.yml", "deployment.yml"]
    assert done.stdout.split() == [f"out/{name}" for name in names]
    assert "deployment.yml says Standard_DS4_v2" in done.stderr
    job = load_job(out / "job.yml")
    assert job.jobs[PIPELINE].component.display_name == "Chat completion pipeline"
    assert (job.outputs["trained_model"].name, job.settings.continue_on_step_failure) == ("tiny", False)
    steps = {file.stem: load_component(file) for file in (out / "components").glob("*.yaml")}
    assert {PIPELINE, *STEPS} < set(steps)
    for step in STEPS:
        assert list((out / "components" / steps[step].code).glob("penala-*.whl"))
    assert load_compute(out / "compute.yml").size == "Standard_ND40rs_v2"
    assert load_online_endpoint(out / "endpoint.yml").auth_mode == "key"
    deployment = load_online_deployment(out / "deployment.yml")
    assert (deployment.name, deployment.model) == ("default", "tiny@latest")  # the loader takes azureml: off
    assert deployment.request_settings.request_timeout_ms == 90_000


def test_the_job_says_what_the_recipe_sets_and_no_default(project, penala):
    """Conversations by a path relative to the job, settings as text, the cluster and its eight GPUs."""
    assert penala("recipe", "export", "recipe.yaml", "out").returncode == 0

    job: dict[str, Any] = yaml.safe_load((project / "out" / "job.yml").read_text())
    assert job["inputs"]["train_file_path"] == {"type": "uri_file", "path": "../train.jsonl"}
    given = job["jobs"][PIPELINE]["inputs"]
    assert {"max_steps": "2", "lora_r": "4", "learning_rate": "0.01", "apply_lora": "true"}.items() <= given.items()
    assert (given["validation_split"], given["test_split"]) == ("20%", "none")
    assert (given["compute_finetune"], given["number_of_gpu_to_use_finetuning"]) == ("gpu-cluster", "8")
    assert "weight_decay" not in given


def test_a_base_model_and_conversations_of_the_workspace_are_found(project, penala, chat_model):
    """Names in a recipe mean the same as in `run`."""
    with Workspace.open(project / "ws", create=True) as workspace:
        workspace.models.add("kopi-base", str(chat_model))
        workspace.data.add("chats", project / "train.jsonl")
    names = ("--set", "base_model=kopi-base", "--set", "conversations.train=azureml:chats:1")

    done = penala("recipe", "export", "recipe.yaml", "out", *names)

    assert done.returncode == 0, done.stderr
    inputs = load_job(project / "out" / "job.yml").inputs
    assert (project / "out" / inputs["pytorch_model_path"].path).resolve() == chat_model
    assert (project / "out" / inputs["train_file_path"].path).is_file()


def test_several_files_of_a_split_become_one(project, penala):
    """The SDK sends no folder as a uri_file."""
    talk = [{"from": "human", "value": "kopi?"}, {"from": "gpt", "value": "teh"}]
    (project / "data").mkdir()
    for name in ("a", "b"):
        (project / "data" / f"{name}.jsonl").write_text("".join([json.dumps({"talk": talk}) + "\n"] * 10))
    recipe = yaml.safe_load((project / "recipe.yaml").read_text())
    recipe["conversations"] |= {"train": "data", "schema": "sharegpt", "columns": {"conversations": "talk"}}
    (project / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    done = penala("recipe", "export", "recipe.yaml", "out")

    assert done.returncode == 0, done.stderr
    job = yaml.safe_load((project / "out" / "job.yml").read_text())
    assert job["inputs"]["train_file_path"] == {"type": "uri_file", "path": "data/train.jsonl"}
    rows = [json.loads(line) for line in (project / "out" / "data" / "train.jsonl").read_text().splitlines()]
    assert [row["messages"][1]["content"] for row in rows] == ["teh"] * 20
    given = job["jobs"][PIPELINE]["inputs"]
    assert (given["conversation_schema"], given.get("column_mapping")) == ("messages", None)
    assert f"{Path('out', 'data')} holds the conversations as JSON lines" in done.stderr


def test_what_azure_would_refuse_is_said(project, penala):
    """A managed endpoint waits three minutes at most; a retired size can be had no more."""
    long, gone = "endpoint.request_settings.request_timeout_ms=600000", "azureml.compute.size=Standard_NC6s_v3"

    done = penala("recipe", "export", "recipe.yaml", "out", "--set", long, "--set", gone)

    assert done.returncode == 0, done.stderr
    assert "warning: endpoint.request_settings.request_timeout_ms: is longer than a managed endpoint" in done.stderr
    assert "warning: azureml.compute.size: Standard_NC6s_v3 was retired on 2025-09-30" in done.stderr


def test_what_is_refused_leaves_no_folder(project, penala):
    """So that the same command works once the recipe is mended."""
    done = penala("recipe", "export", "recipe.yaml", "out", "--set", "azureml.compute.size=Standard_Nope")

    assert done.returncode == 2
    assert "no size is called 'Standard_Nope'" in done.stderr
    assert not (project / "out").exists()


@pytest.mark.slow
def test_the_same_file_runs_here(project, penala):
    """And registers the model that it names."""
    assert penala("recipe", "export", "recipe.yaml", "out").returncode == 0

    done = penala("jobs", "create", "-f", "out/job.yml", "--stream")

    assert done.returncode == 0, done.stderr
    with Workspace.open(project / "ws") as workspace:
        assert workspace.models.show("tiny:1")["job"]


def test_a_folder_that_holds_something_is_left_alone(project, penala):
    """So that nothing of the user's is overwritten."""
    (project / "out").mkdir()
    (project / "out" / "mine").touch()

    done = penala("recipe", "export", "recipe.yaml", "out")

    assert done.returncode == 2
    assert "out: is not empty; name a new folder" in done.stderr
    assert os.listdir(project / "out") == ["mine"]
