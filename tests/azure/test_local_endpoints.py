"""Endpoints and deployments through the SDK's operations: a real gateway, a tiny model, keys, traffic, logs."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from azure.ai.ml.entities import (
    CodeConfiguration,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.ai.ml.exceptions import ValidationException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from penala.azure import LocalMLClient
from penala.workspace.client import Workspace

NAME = "kopi-chat"
BODY = {"input_data": {"input_string": [{"role": "user", "content": "kopi?"}], "parameters": {"max_new_tokens": 4}}}


@pytest.fixture
def client(tmp_path, monkeypatch) -> LocalMLClient:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return LocalMLClient(path=tmp_path / "ws")


@pytest.fixture
def model(client, chat_model) -> Model:
    """A registered version of the tiny chat model."""
    with Workspace.open(client.path, create=True) as workspace:
        workspace.models.add("tiny", str(chat_model))
        package = workspace.models.folder("tiny:1")
    return client.models.create_or_update(Model(name="tuned", path=str(package), type="mlflow_model"))


@pytest.fixture
def endpoint(client) -> Iterator[ManagedOnlineEndpoint]:
    """An endpoint without a deployment; it goes with the test."""
    wanted = ManagedOnlineEndpoint(name=NAME, auth_mode="key", description="Orders", tags={"shop": "lesung"})
    yield client.begin_create_or_update(wanted).result()
    if NAME in [one.name for one in client.online_endpoints.list()]:
        client.online_endpoints.begin_delete(name=NAME).wait()


def deployment(name: str, model: object, **settings: object) -> ManagedOnlineDeployment:
    """Describe a deployment as Azure's tutorials do."""
    return ManagedOnlineDeployment(
        name=name, endpoint_name=NAME, model=model, instance_type="Standard_NC6s_v3", instance_count=1, **settings
    )


def test_a_deployment_answers_and_takes_no_traffic_of_its_own_accord(client, model, endpoint, tmp_path):
    """It is reached by its name at once; the endpoint's traffic is what the endpoint is told. Then all of it goes."""
    (tmp_path / "request.json").write_text(json.dumps(BODY))
    blue = client.begin_create_or_update(
        deployment(
            "blue",
            model.id,
            liveness_probe=ProbeSettings(initial_delay=600),
            request_settings=OnlineRequestSettings(request_timeout_ms=90000),
        )
    ).result()

    assert (blue.provisioning_state, blue.model, blue.instance_type) == ("Succeeded", model.id, "Standard_NC6s_v3")
    assert (blue.request_settings.request_timeout_ms, blue.liveness_probe.initial_delay) == (90000, 600)
    assert client.online_endpoints.get(NAME).traffic == {"blue": 0}
    with pytest.raises(ResourceNotFoundError, match="has traffic; give one traffic") as raised:
        client.online_endpoints.invoke(NAME, request_file=tmp_path / "request.json")
    assert raised.value.status_code == 404
    asked = client.online_endpoints.invoke(NAME, request_file=tmp_path / "request.json", deployment_name="blue")
    assert isinstance(json.loads(asked)["output"], str | list)

    endpoint.traffic = {"Blue": 100}
    endpoint = client.begin_create_or_update(endpoint).result()
    client.begin_create_or_update(deployment("green", "azureml:tuned@latest")).wait()

    assert client.online_endpoints.get(NAME).traffic == {"blue": 100, "green": 0}
    assert [one.name for one in client.online_deployments.list(NAME)] == ["blue", "green"]
    assert client.online_deployments.get("green", NAME).model == model.id
    assert "ready" in client.online_deployments.get_logs("blue", NAME, lines=50)
    with pytest.raises(ValidationException, match="Deployment name red not found for this endpoint"):
        client.online_endpoints.invoke(NAME, request_file=tmp_path / "request.json", deployment_name="red")
    with pytest.raises(HttpResponseError, match="100 % of the traffic"):
        client.online_deployments.begin_delete("blue", endpoint_name=NAME).wait()
    client.online_deployments.begin_delete("green", endpoint_name=NAME).wait()
    assert [one.name for one in client.online_deployments.list(NAME)] == ["blue"]

    keys = client.online_endpoints.get_keys(NAME)
    body, url = (
        {"messages": BODY["input_data"]["input_string"], "max_tokens": 4},
        endpoint.properties["openai_base_url"],
    )
    codes = [
        httpx.post(f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}).status_code
        for key in (keys.primary_key, keys.secondary_key, "guess")
    ]
    assert codes == [200, 200, 401]

    client.online_endpoints.begin_delete(name=NAME).wait()
    assert list(client.online_endpoints.list()) == []
    with pytest.raises(ResourceNotFoundError, match=f"there is no endpoint '{NAME}'"):
        client.online_endpoints.get(NAME)


def test_a_model_of_a_registry_is_deployed(client, model, endpoint, capsys, tmp_path):
    """By its id there; it is registered in the workspace first, which is said."""
    (tmp_path / "request.json").write_text(json.dumps(BODY))
    base = LocalMLClient(registry_name="azureml", path=client.path).models.get("tiny", label="latest")

    made = client.begin_create_or_update(deployment("base", base.id)).result()

    assert made.model == client.models.get("tiny", version="1").id
    assert "tiny:1 of the registry is registered in this workspace" in capsys.readouterr().out
    answer = client.online_endpoints.invoke(NAME, request_file=tmp_path / "request.json", deployment_name="base")
    assert "output" in json.loads(answer)


def test_an_endpoint_keeps_what_it_was_told(client, endpoint):
    """Description and tags come back, with where it answers; both keys can be renewed."""
    found = client.online_endpoints.get(NAME.upper())  # Azure's names are the same in any letter case
    before = client.online_endpoints.get_keys(NAME)
    client.online_endpoints.begin_regenerate_keys(NAME, key_type="secondary").wait()
    after = client.online_endpoints.get_keys(NAME)

    assert (found.description, found.tags, found.auth_mode) == ("Orders", {"shop": "lesung"}, "key")
    assert (found.provisioning_state, found.scoring_uri) == ("Succeeded", endpoint.scoring_uri)
    assert found.scoring_uri.endswith("/score")
    assert (before.primary_key == after.primary_key, before.secondary_key == after.secondary_key) == (True, False)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (ManagedOnlineEndpoint(auth_mode="key"), "an endpoint needs a name"),
        (ManagedOnlineEndpoint(name=NAME, auth_mode="aad_token"), "an endpoint here asks for a key"),
        (ManagedOnlineEndpoint(name=NAME, mirror_traffic={"blue": 10}), "mirror_traffic does not run here"),
        (
            deployment("blue", "azureml:m:1", code_configuration=CodeConfiguration(code=".", scoring_script="a.py")),
            "code",
        ),
        (deployment("blue", "azureml:m:1", scoring_script="a.py", code_path="."), "does not run here"),
    ],
)
def test_what_does_not_run_here_is_refused_by_its_name(wanted, message, client):
    """Before anything is made."""
    with pytest.raises(ValidationException, match=message):
        client.begin_create_or_update(wanted)
    assert list(client.online_endpoints.list()) == []


def test_a_deployment_needs_an_endpoint_and_a_model(client, endpoint):
    """The SDK's exceptions come out of the poller."""
    nowhere = deployment("blue", "azureml:m:1")
    nowhere.endpoint_name = "gone"

    with pytest.raises(ResourceNotFoundError, match="there is no endpoint 'gone'"):
        client.begin_create_or_update(nowhere).result()
    with pytest.raises(ResourceNotFoundError, match="m"):
        client.begin_create_or_update(deployment("blue", "azureml:m:1")).result()
    with pytest.raises(ValidationException, match="ManagedOnlineEndpoint is no deployment"):
        client.online_deployments.begin_create_or_update(endpoint)
    with pytest.raises(ValidationException, match="str is no endpoint"):
        client.online_endpoints.begin_create_or_update(NAME)
    with pytest.raises(ValidationException, match="a deployment needs a model"):
        client.begin_create_or_update(deployment("blue", None)).result()
    with pytest.raises(ResourceNotFoundError, match="has no deployment 'blue'; it has none"):
        client.online_deployments.get("blue", NAME)


@pytest.mark.parametrize(("text", "message"), [(None, "cannot be sent"), ("{", "cannot be sent")])
def test_a_request_file_that_is_none_is_refused(text, message, client, endpoint, tmp_path):
    """With its name."""
    file = Path(tmp_path / "request.json")
    if text is not None:
        file.write_text(text)

    with pytest.raises(ValidationException, match=message):
        client.online_endpoints.invoke(NAME, request_file=file)
    with pytest.raises(ValidationException, match="request_file is missing"):
        client.online_endpoints.invoke(NAME)
