"""After the job: the model version with its lineage, the endpoint with its deployment, and one question to it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from azure.ai.ml import MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import (
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineEndpoint,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.exceptions import ResourceNotFoundError

from penala.assets import next_version
from penala.azure.remote.reasons import during
from penala.azure.remote.submit import OUTPUT
from penala.errors import EndpointError, ModelError
from penala.recipe import AzureML, Recipe

# the container installs packages and loads gigabytes before it answers; a probe that gives up sooner kills it
LIVENESS = {"initial_delay": 600, "period": 30, "timeout": 10, "failure_threshold": 30}
READINESS = {"initial_delay": 60, "period": 30, "timeout": 10, "failure_threshold": 60}


def register(ml: MLClient, recipe: Recipe, job: str, base: str) -> Model:
    """Register the job's model and return it; the version that it has already stays the only one. Raises ModelError."""
    name = recipe.model_name
    with during(f"registering {name}", ModelError):
        try:
            there = list(ml.models.list(name=name))
        except ResourceNotFoundError:
            there = []
        for model in there:
            if model.job_name == job:
                return model
        version = recipe.model.version if recipe.model and recipe.model.version else None
        tuned = Model(
            path=f"azureml://jobs/{job}/outputs/{OUTPUT}",
            type=AssetTypes.MLFLOW_MODEL,
            name=name,
            version=version or next_version([str(model.version) for model in there]),
            description=f"{base}, fine-tuned with penala",
            tags=dict(recipe.model.tags) if recipe.model else {},
            properties={"base_model": base, "job": job, "recipe": recipe.file.name},
        )
        return ml.models.create_or_update(tuned)


def deploy(ml: MLClient, recipe: Recipe, model: Model, on: str) -> OnlineEndpoint:
    """Make the endpoint if it is missing, deploy to it, and give the deployment all traffic. Raises EndpointError."""
    assert recipe.endpoint is not None
    wanted, given = recipe.endpoint, recipe.azureml or AzureML()
    with during(f"making the endpoint {wanted.name}", EndpointError):
        try:
            endpoint = ml.online_endpoints.get(wanted.name)
        except ResourceNotFoundError:
            about = f"{model.name}, fine-tuned with penala"
            endpoint = ManagedOnlineEndpoint(name=wanted.name, description=about, auth_mode="key")
            ml.begin_create_or_update(endpoint).result()
    deployment = ManagedOnlineDeployment(
        name=wanted.deployment,
        endpoint_name=wanted.name,
        model=model.id,
        instance_type=given.instance_type,
        instance_count=given.instance_count,
        liveness_probe=ProbeSettings(**LIVENESS),
        readiness_probe=ProbeSettings(**READINESS),
        request_settings=OnlineRequestSettings(**wanted.request_settings.model_dump()),
    )
    with during(f"deploying {model.name}:{model.version} as {wanted.deployment}", EndpointError, fix=_logs(recipe, on)):
        ml.online_deployments.begin_create_or_update(deployment).result()
    endpoint.traffic = {wanted.deployment: 100}
    with during(f"giving {wanted.deployment} the traffic", EndpointError):
        ml.begin_create_or_update(endpoint).result()
        return ml.online_endpoints.get(wanted.name)


def _logs(recipe: Recipe, on: str) -> str:
    assert recipe.endpoint is not None
    name = recipe.endpoint.name
    return (
        f"`penala deployments logs {name} {recipe.endpoint.deployment} --on {on}` shows why; it may go on costing "
        f"until `penala endpoints delete {name} --on {on}`"
    )


def score(ml: MLClient, endpoint: str, deployment: str | None, body: Any) -> Any:
    """Send a /score body and return the answer. Raises EndpointError."""
    with TemporaryDirectory() as folder, during(f"asking {endpoint}", EndpointError):
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(body), encoding="utf-8")
        text = ml.online_endpoints.invoke(endpoint, deployment_name=deployment, request_file=str(file))
    return json.loads(text)


def reply_text(answer: Any) -> str:
    """Return the text of an answer of either of Azure's servers: {"output": TEXT}, [{"0": TEXT}] or [TEXT]."""
    while not isinstance(answer, str):
        if isinstance(answer, dict) and answer:
            answer = answer.get("output", next(iter(answer.values())))
        elif isinstance(answer, list) and answer:
            answer = answer[0]
        else:
            raise EndpointError(f"the endpoint answered without a text: {json.dumps(answer)}")
    return answer
