# %% [markdown]
# # Azure ML's SDK on this machine
#
# This notebook tunes a chat model with `azure-ai-ml`, from the base model in a registry to a keyed endpoint and back.
# It runs here, without an account: one import line says so. The calls are those of a notebook for Azure ML itself;
# the page on Azure in the docs has the table of what differs.
#
# `pip install 'penala[azure]'` brings what it needs. The conversations are those of [the kopitiam](../01_kopitiam).

# %% tags=["parameters"]
model_name = "SmolLM2-135M-Instruct"
max_steps = 90
rows = 720

# %% [markdown]
# ## The clients
#
# On Azure the first line would read `from azure.ai.ml import MLClient`, and the credential would sign in. Here nobody
# asks for it. `from_config` finds the nearest `config.json`, of Azure or of a local workspace; without one the three
# names are whatever you like. A client of a registry reads the catalogue of base models and components.

# %%
from penala.azure import LocalMLClient as MLClient
from azure.ai.ml.exceptions import ValidationException
from azure.identity import DefaultAzureCredential

try:
    workspace = MLClient.from_config(credential=DefaultAzureCredential())
except ValidationException:
    workspace = MLClient(DefaultAzureCredential(), "my-subscription", "my-group", "my-workspace")
registry = MLClient(DefaultAzureCredential(), registry_name="azureml")
base = registry.models.get(model_name, label="latest")
print(base.id)

# %% [markdown]
# ## A compute that stands in for eight GPUs
#
# It is checked like the size that it is called by, and counts eight devices. What is left out is the speed: the job
# takes the same batches, one after the other, on the cores that are here.

# %%
import ast

from azure.ai.ml.entities import AmlCompute
from azure.core.exceptions import ResourceNotFoundError

size = "Standard_ND40rs_v2"
allowed = ast.literal_eval(base.tags.get("finetune_compute_allow_list", "None"))
assert allowed is None or size in allowed, f"{model_name} is not tuned on {size}; choose one of {allowed}"
try:
    cluster = workspace.compute.get("gpu-cluster")
except ResourceNotFoundError:
    cluster = workspace.compute.begin_create_or_update(AmlCompute(name="gpu-cluster", size=size)).result()
gpus = next(one.gpus for one in workspace.compute.list_sizes() if one.name == cluster.size)
print(cluster.size, "has", gpus, "GPUs")

# %% [markdown]
# ## The conversations, as data assets
#
# One JSON object a line, `{"messages": [{"role": "user", "content": "..."}, ...]}`. `download-dataset.py` beside this
# notebook fetches a set of the Hugging Face hub instead, under the options that Azure's own tutorials pass.

# %%
from pathlib import Path

from azure.ai.ml.entities import Data

kopitiam = Path("../01_kopitiam/data")
lines = (kopitiam / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
Path("train.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
train = workspace.data.create_or_update(Data(name="kopitiam-train", path="train.jsonl", type="uri_file"))
held_out = workspace.data.create_or_update(
    Data(name="kopitiam-validation", path=str(kopitiam / "validation.jsonl"), type="uri_file")
)
print(train.name, train.version, held_out.name, held_out.version)

# %% [markdown]
# ## The job
#
# The registry's pipeline is a function. Publishers recommend settings in a tag; yours go over them here.

# %%
from azure.ai.ml import Input
from azure.ai.ml.dsl import pipeline

tune = registry.components.get("chat_completion_pipeline", label="latest")
settings = {
    **ast.literal_eval(base.tags.get("model_specific_defaults", "{}")),
    "apply_lora": "true",
    "learning_rate": 4e-3,
    "max_steps": max_steps,
    "evaluation_strategy": "disable",
    "logging_steps": 1,
}


@pipeline(name="kopitiam on eight GPUs")
def kopitiam_pipeline():
    step = tune(
        mlflow_model_path=base.id,
        task_name="ChatCompletion",
        train_file_path=Input(type="uri_file", path=train.id),
        validation_file_path=Input(type="uri_file", path=held_out.id),
        compute_finetune=cluster.name,
        number_of_gpu_to_use_finetuning=gpus,
        **settings,
    )
    return {"trained_model": step.outputs.mlflow_model_folder}


job = workspace.jobs.create_or_update(kopitiam_pipeline(), experiment_name="kopitiam")
workspace.jobs.stream(job.name)

# %% [markdown]
# ## What it learned, in plain MLflow
#
# The job is a run, its steps are child runs; the figures of all steps stand on the job's run, too.

# %%
import mlflow

mlflow.set_tracking_uri(workspace.workspaces.get(workspace.workspace_name).mlflow_tracking_uri)
runs = mlflow.search_runs(experiment_names=["kopitiam"], output_format="list")
run = next(run for run in runs if run.info.run_name == job.name)
curve = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
print("loss of a training step:", curve[0].value, "->", curve[-1].value)

# %% [markdown]
# ## A version of a model, and an endpoint with a key
#
# The version knows its job, the job its data and its base model: `penala models lineage NAME:VERSION` draws it. The
# deployment is ready as soon as it answers, whatever its probes would allow it.

# %%
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, ProbeSettings

model = workspace.models.create_or_update(
    Model(name="kopitiam-notebook", type="mlflow_model", path=f"azureml://jobs/{job.name}/outputs/trained_model")
)
endpoint = ManagedOnlineEndpoint(name="kopitiam-notebook", auth_mode="key", description="The kopitiam's assistant")
workspace.begin_create_or_update(endpoint).wait()
deployment = ManagedOnlineDeployment(
    name="blue",
    endpoint_name=endpoint.name,
    model=model.id,
    instance_type="Standard_NC24ads_A100_v4",
    instance_count=1,
    liveness_probe=ProbeSettings(initial_delay=600),
)
workspace.begin_create_or_update(deployment).wait()
endpoint.traffic = {"blue": 100}
endpoint = workspace.begin_create_or_update(endpoint).result()
print(endpoint.scoring_uri)

# %% [markdown]
# ## Asking it: through the SDK, and as any OpenAI client does
#
# The second way is this machine's: an endpoint here answers both, and asks for the same key.

# %%
import json

question = [
    {"role": "system", "content": "You are the assistant of Kopi Lesung. Answer briefly."},
    {"role": "user", "content": "How much is the laksa?"},
]
Path("question.json").write_text(json.dumps({"input_data": {"input_string": question, "parameters": {}}}))
answer = workspace.online_endpoints.invoke(endpoint_name=endpoint.name, request_file="question.json")
print(json.loads(answer)["output"])

# %%
import httpx

key = workspace.online_endpoints.get_keys(endpoint.name).primary_key
reply = httpx.post(
    f"{endpoint.properties['openai_base_url']}/chat/completions",
    headers={"Authorization": f"Bearer {key}"},
    json={"model": "kopitiam", "messages": question, "max_tokens": 16},
    timeout=120,
)
reply.raise_for_status()
print(reply.json()["choices"][0]["message"]["content"])

# %% [markdown]
# ## Tidying up
#
# The endpoint goes with its keys and processes; the job, its runs and the model version stay.

# %%
workspace.online_endpoints.begin_delete(name=endpoint.name).wait()
print([one.name for one in workspace.online_endpoints.list()])
