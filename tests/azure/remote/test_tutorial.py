"""The tutorial's own SDK calls, in our words, against the fake: their requests are the golden ones.

PENALA_RECORD=1 writes tests/azure/golden anew.
"""

import ast
import json
import os

import pytest
from fake_azure import contents, golden


def tune(workspace, registry, folder):
    """Do what the tutorial does with Phi-3, from its model to the reply of its endpoint; return the reply."""
    from azure.ai.ml import Input, dsl
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import (
        AmlCompute,
        ManagedOnlineDeployment,
        ManagedOnlineEndpoint,
        Model,
        OnlineRequestSettings,
        ProbeSettings,
    )

    base = registry.models.get("Phi-3-mini-4k-instruct", label="latest")
    cluster = AmlCompute(
        name="gpu-cluster",
        size="Standard_ND40rs_v2",
        max_instances=1,
        idle_time_before_scale_down=120,
    )
    workspace.compute.begin_create_or_update(cluster).wait()
    sizes = {size.name.lower(): size.gpus for size in workspace.compute.list_sizes()}
    gpus = sizes[workspace.compute.get("gpu-cluster").size.lower()]
    parameters = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": 5e-6,
        "lr_scheduler_type": "cosine",
        "apply_lora": "true",
        "apply_deepspeed": "true",
        "deepspeed_stage": 2,
    }
    parameters |= ast.literal_eval(base.tags["model_specific_defaults"])
    component = registry.components.get(name="chat_completion_pipeline", label="latest")

    @dsl.pipeline(name="Phi-3-mini-4k-instruct-ultrachat")
    def tuning():
        chat_completion_pipeline = component(
            mlflow_model_path=base.id,
            compute_model_import="gpu-cluster",
            compute_preprocess="gpu-cluster",
            compute_finetune="gpu-cluster",
            compute_model_evaluation="gpu-cluster",
            train_file_path=Input(type="uri_file", path=str(folder / "train_sft.jsonl")),
            test_file_path=Input(type="uri_file", path=str(folder / "test_sft.jsonl")),
            number_of_gpu_to_use_finetuning=gpus,
            **parameters,
        )
        return {"trained_model": chat_completion_pipeline.outputs.mlflow_model_folder}

    pipeline = tuning()
    pipeline.settings.force_rerun = True
    pipeline.settings.continue_on_step_failure = False
    job = workspace.jobs.create_or_update(pipeline, experiment_name="chat_completion_Phi-3-mini-4k-instruct")
    workspace.jobs.stream(job.name)
    tuned = Model(
        path=f"azureml://jobs/{job.name}/outputs/trained_model",
        type=AssetTypes.MLFLOW_MODEL,
        name="Phi-3-mini-4k-instruct-ultrachat-200k",
        version="1700000000",
        description="Phi-3-mini-4k-instruct fine tuned model for ultrachat 200k chat-completion",
    )
    registered = workspace.models.create_or_update(tuned)
    endpoint = ManagedOnlineEndpoint(
        name="ultrachat-completion-17", description=f"Online endpoint for {registered.name}", auth_mode="key"
    )
    workspace.begin_create_or_update(endpoint).wait()
    deployment = ManagedOnlineDeployment(
        name="demo",
        endpoint_name=endpoint.name,
        model=registered.id,
        instance_type="Standard_NC6s_v3",
        instance_count=1,
        liveness_probe=ProbeSettings(initial_delay=600),
        request_settings=OnlineRequestSettings(request_timeout_ms=90000),
    )
    workspace.online_deployments.begin_create_or_update(deployment).wait()
    endpoint.traffic = {"demo": 100}
    workspace.begin_create_or_update(endpoint).result()
    question = folder / "sample_score.json"
    question.write_text(json.dumps({"input_data": {"input_string": [[]], "parameters": {}}, "params": {}}))
    reply = workspace.online_endpoints.invoke(endpoint.name, deployment_name="demo", request_file=str(question))
    workspace.online_endpoints.begin_delete(name=endpoint.name).wait()
    return reply


@pytest.fixture
def as_in_2024(azure, place):
    """The registry as the tutorial found it, and the two files of conversations that it tunes with."""
    tags = contents.allowed(contents.V100) | {"model_specific_defaults": str(contents.DEFAULTS)}
    azure.models = {"Phi-3-mini-4k-instruct": {"3": contents.registry_model(tags)}}
    for split in ("train_sft", "test_sft"):
        contents.write_conversations(place / "ultrachat" / f"{split}.jsonl")
    return azure


def test_the_golden_requests_are_those_of_the_tutorial(as_in_2024, place):
    """What lies in golden/ is what the SDK sends when it is called as the tutorial calls it."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    credential = DefaultAzureCredential()
    credential.get_token("https://management.azure.com/.default")
    workspace = MLClient.from_config(credential, enable_telemetry=False)
    registry = MLClient(credential, registry_name="azureml", enable_telemetry=False)

    reply = tune(workspace, registry, place / "ultrachat")

    assert json.loads(reply) == {"output": "from demo"}
    sent = golden.sent(as_in_2024.proxy)
    if os.environ.get("PENALA_RECORD"):
        for name, bodies in sent.items():
            golden.write(name, bodies)
    assert sent == {name: golden.read(name) for name in golden.SENT}
