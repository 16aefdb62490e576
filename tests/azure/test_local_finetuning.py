"""What newer tutorials of the same task call: create_finetuning_job, pytorch_model_path, messages with more keys."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.ai.ml import Input
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import CustomModelFineTuningJob, Data, ManagedOnlineDeployment, ManagedOnlineEndpoint
from azure.ai.ml.exceptions import ValidationException
from azure.ai.ml.finetuning import FineTuningTaskType, create_finetuning_job

from penala.azure import LocalMLClient
from penala.workspace.data import check_data

pytestmark = pytest.mark.slow
BASE = "Phi-3-mini-4k-instruct"


@pytest.fixture
def notebook(tmp_path, monkeypatch, add_base) -> Path:
    """A notebook's folder with conversations, some of whose replies also say what was thought."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for split, count in {"train": 20, "validation": 4}.items():
        rows = [_row(f"{split} {number}") for number in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    add_base(tmp_path / "ws", "2025", version="6")
    return tmp_path


def _row(question: str) -> dict[str, Any]:
    reply = {"role": "assistant", "content": "teh", "thinking": "kopi is sold out"}
    return {"messages": [{"role": "user", "content": question}, reply]}


@pytest.fixture
def client(notebook) -> LocalMLClient:
    return LocalMLClient(path=notebook / "ws")


@pytest.fixture
def registry(notebook) -> LocalMLClient:
    return LocalMLClient(registry_name="azureml", path=notebook / "ws")


def test_a_finetuning_job_ends_in_a_model_that_chats(client, registry, notebook):
    """From create_finetuning_job to /v1/chat/completions at the endpoint, with its key."""
    job = create_finetuning_job(
        model=registry.models.get(BASE, version="6").id,
        task=FineTuningTaskType.CHAT_COMPLETION,
        training_data="train.jsonl",
        validation_data="validation.jsonl",
        hyperparameters={"num_train_epochs": "1", "per_device_train_batch_size": "4", "learning_rate": "0.00002"},
        output_model_name_prefix="phi-3-kopitiam",
    )
    made = client.jobs.create_or_update(job)
    while (status := client.jobs.get(made.name).status) not in ("Completed", "Failed", "Canceled"):
        time.sleep(1)

    done = client.jobs.get(made.name)
    assert status == "Completed"
    assert isinstance(done, CustomModelFineTuningJob)
    name = done.outputs["registered_model"].name
    assert name == "phi-3-kopitiam"
    model = client.models.get(name, version="1")
    assert model.job_name == made.name

    endpoint = client.begin_create_or_update(ManagedOnlineEndpoint(name="kopitiam-chat", auth_mode="key")).result()
    blue = ManagedOnlineDeployment(
        name="blue",
        endpoint_name=endpoint.name,
        model=model,
        instance_type="Standard_NC24ads_A100_v4",
        instance_count=1,
    )
    client.online_deployments.begin_create_or_update(blue).wait()
    endpoint.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(endpoint).result()
    reply = httpx.post(
        endpoint.scoring_uri.replace("/score", "/v1/chat/completions"),
        headers={"Authorization": f"Bearer {client.online_endpoints.get_keys(endpoint.name).primary_key}"},
        json={"messages": [{"role": "user", "content": "kopi?"}], "max_tokens": 4},
        timeout=60,
    )
    client.online_endpoints.begin_delete(endpoint.name).wait()

    assert reply.json()["choices"][0]["message"]["role"] == "assistant"


def test_weights_from_a_folder_and_conversations_from_assets(client, registry, phi3, capsys):
    """pytorch_model_path and validation_file_path; a key that the template does not render is no error."""
    assets = [
        client.data.create_or_update(Data(name=split, path=f"{split}.jsonl", type="uri_file"))
        for split in ("train", "validation")
    ]
    train, validation = assets[0], client.data.get("validation", label="latest")
    component = registry.components.get("chat_completion_pipeline", label="latest")

    @pipeline(name="weights")
    def weights() -> dict[str, Any]:
        step = component(
            pytorch_model_path=Input(type="custom_model", path=str(phi3)),
            train_file_path=Input(type="uri_file", path=f"azureml:{train.name}:{train.version}"),
            validation_file_path=Input(type="uri_file", path=validation.id),
            apply_lora="true",
            max_steps=1,
        )
        return {"trained_model": step.outputs.mlflow_model_folder}

    made = client.jobs.create_or_update(weights())
    client.jobs.stream(made.name)

    said = capsys.readouterr().out
    assert client.jobs.get(made.name).status == "Completed"
    findings = check_data(["train.jsonl"], "auto", {}).as_dict()["findings"]
    assert [one["code"] for one in findings if "'thinking'" in one["message"]] == ["unrendered_keys"]
    assert "train: 20 rows, 20 good, 0 bad" in said


def test_another_task_is_refused_by_its_name(client):
    """What Azure tunes besides chat models."""
    job = create_finetuning_job(
        model="azureml://registries/azureml/models/m/versions/1",
        task=FineTuningTaskType.TEXT_COMPLETION,
        training_data="train.jsonl",
        validation_data="validation.jsonl",
        output_model_name_prefix="m",
    )

    with pytest.raises(ValidationException, match="text_completion does not run in this workspace"):
        client.jobs.create_or_update(job)
