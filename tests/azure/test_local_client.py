"""LocalMLClient as MLClient is used: constructor, configuration, dispatch, and the SDK's exceptions and pollers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, ManagedOnlineDeployment, Model, OnlineEndpoint
from azure.ai.ml.exceptions import JobException, ValidationException
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestTimeoutError,
)
from azure.core.polling import LROPoller

from penala.azure import LocalMLClient
from penala.azure.failures import as_sdk
from penala.azure.poller import begin
from penala.errors import DataError, EndpointError, JobError, NotFound, RecipeError, UsageError


def test_the_constructor_takes_what_the_sdk_s_takes(tmp_path):
    """Placeholders that nobody filled in are names like any other, and no credential is asked for anything."""
    client = LocalMLClient(
        object(),
        subscription_id="<SUBSCRIPTION_ID>",
        resource_group_name="<RESOURCE_GROUP>",
        workspace_name="<WORKSPACE_NAME>",
        path=tmp_path / "ws",
        enable_telemetry=False,
    )

    assert (client.subscription_id, client.resource_group_name) == ("<SUBSCRIPTION_ID>", "<RESOURCE_GROUP>")
    assert client.workspace_name == "<WORKSPACE_NAME>"
    assert "/workspaces/<WORKSPACE_NAME>" in client.workspaces.get("<WORKSPACE_NAME>").id


def test_it_has_the_operations_of_the_sdk_s_client():
    """Each operation group of ours, and each of its functions, is one of MLClient's by the same name."""
    ours = [name for name in vars(LocalMLClient(path="nowhere")) if not name.startswith("_")]

    assert len(ours) == 9
    for group in ours:
        theirs = getattr(MLClient, group).fget.__annotations__["return"]
        for name in dir(getattr(LocalMLClient(path="nowhere"), group)):
            known = name.startswith("_") or hasattr(theirs, name)
            assert known or f"{group}.{name}" == "jobs.update", f"{group}.{name}"  # which 1.27 has not yet


def test_nothing_is_made_before_it_is_used(tmp_path):
    """A constructor makes no folder."""
    LocalMLClient(path=tmp_path / "ws")

    assert not (tmp_path / "ws").exists()


def test_a_configuration_is_found_from_the_working_folder_upwards(tmp_path, monkeypatch):
    """Azure's config.json beside a notebook or above it gives the names; the workspace is the local one."""
    (tmp_path / ".azureml").mkdir()
    names = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    (tmp_path / ".azureml" / "config.json").write_text(json.dumps(names))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("PENALA_WORKSPACE", raising=False)

    client = LocalMLClient.from_config(credential=None)

    assert (client.subscription_id, client.resource_group_name, client.workspace_name) == ("s", "g", "w")
    assert client.path == tmp_path / "notebooks" / ".penala"


def test_a_workspace_here_is_a_configuration_too(tmp_path, monkeypatch):
    """from_config finds the workspace's own config.json, or takes it by its path."""
    made = LocalMLClient(path=tmp_path / "project" / ".penala")
    made.workspaces.get()
    monkeypatch.chdir(tmp_path / "project")

    assert LocalMLClient.from_config().path == made.path
    assert LocalMLClient.from_config(path=made.path / "config.json").workspace_name == "project"
    assert LocalMLClient(path=made.path).workspace_name == "project"


def test_a_configuration_may_hold_an_id(tmp_path):
    """As Azure's older ones do."""
    scope = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    (tmp_path / "project.json").write_text(json.dumps({"Scope": scope}))

    client = LocalMLClient.from_config(path=tmp_path, file_name="project.json")

    assert (client.subscription_id, client.resource_group_name, client.workspace_name) == ("s", "g", "w")


@pytest.mark.parametrize("name", [None, "", Model(name="m", path=".")])
def test_things_are_found_by_their_names(name, tmp_path):
    """And not by the entity that has one, which is said before anything else."""
    client = LocalMLClient(path=tmp_path)

    for ask in (
        client.jobs.get,
        client.jobs.stream,
        client.jobs.begin_cancel,
        client.jobs.download,
        client.compute.get,
        client.compute.begin_delete,
        client.online_endpoints.get,
        lambda name: client.models.get(name, version="1"),
        lambda name: client.data.get(name, label="latest"),
    ):
        with pytest.raises(ValidationException, match=r"is found by its name, not by (None|''|a Model)"):
            ask(name)


@pytest.mark.parametrize("names", [{"name": None, "endpoint_name": "chat"}, {"name": "blue", "endpoint_name": None}])
def test_a_deployment_needs_both_of_its_names(names, tmp_path):
    """It is not called None."""
    wanted = ManagedOnlineDeployment(model="tuned@latest", **names)

    with pytest.raises(ValidationException, match="deployment is found by its name, not by None"):
        LocalMLClient(path=tmp_path).online_deployments.begin_create_or_update(wanted)


def test_what_is_not_there_is_named(tmp_path):
    """A group of operations, or one of them, that only Azure has; with what there is."""
    client = LocalMLClient(path=tmp_path)

    with pytest.raises(AttributeError, match="datastores of Azure ML is not there on this machine; there are models, "):
        client.datastores.get_default()
    with pytest.raises(AttributeError, match="LocalMLClient has no attribute 'model'"):
        client.model.get("m")
    with pytest.raises(AttributeError, match="JobOperations has no 'validate' on this machine; it has archive, "):
        client.jobs.validate(None)
    assert not hasattr(client, "schedules")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no config.json lies in"),
        ("{", "is no JSON"),
        ("[1]", "holds no JSON object"),
        ('{"workspace_name": "w"}', "has no subscription_id"),
    ],
)
def test_a_configuration_that_is_none_is_refused(text, message, tmp_path):
    """With the exception that a notebook catches to fill in the names itself."""
    (tmp_path / "a").mkdir()
    if text is not None:
        (tmp_path / "a" / "config.json").write_text(text)

    with pytest.raises(ValidationException, match=message):
        LocalMLClient.from_config(path=tmp_path / "a")


@pytest.mark.parametrize("registry", ["azureml", "azureml-meta", "mine"])
def test_any_registry_reads_the_catalogue(registry, tmp_path):
    """Base models and components, under ids of that registry; nothing can be put there."""
    client = LocalMLClient(registry_name=registry, path=tmp_path / "ws")

    model = client.models.get("SmolLM2-135M-Instruct", label="latest")
    assert model.id == f"azureml://registries/{registry}/models/SmolLM2-135M-Instruct/versions/1"
    assert client.components.get("chat_completion_pipeline", version="0.0.82").name == "chat_completion_pipeline"
    assert client.workspace_name is None
    with pytest.raises(ValidationException, match="has no models of your own"):
        client.models.create_or_update(Model(name="mine", path="."))


def test_an_entity_finds_its_operations(tmp_path):
    """create_or_update and begin_create_or_update go by the type of what they are given."""
    client = LocalMLClient(path=tmp_path / "ws")

    poller = client.begin_create_or_update(AmlCompute(name="big", size="Standard_ND40rs_v2"))

    assert isinstance(poller, LROPoller)
    assert poller.result().size == "Standard_ND40rs_v2"
    assert (poller.status(), poller.done()) == ("Succeeded", True)
    with pytest.raises(TypeError, match="AmlCompute is none of Job, Model, Data"):
        client.create_or_update(AmlCompute(name="big", size="Standard_ND40rs_v2"))
    with pytest.raises(TypeError, match="str is none of Compute, OnlineEndpoint"):
        client.begin_create_or_update("big")


def test_what_fails_in_a_poller_comes_out_of_it():
    """Of wait and of result, with the SDK's type."""

    def fail() -> None:
        raise HttpResponseError("no")

    poller = begin(fail)

    with pytest.raises(HttpResponseError, match="no"):
        poller.wait()
    assert poller.status() == "Failed"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (NotFound("a"), ResourceNotFoundError),
        (UsageError("a"), ValidationException),
        (RecipeError("a"), ValidationException),
        (DataError("a"), ValidationException),
        (JobError("a"), JobException),
        (EndpointError("a"), HttpResponseError),
    ],
)
def test_errors_become_the_sdk_s(ours, theirs):
    """What a notebook catches, with all that the error says."""
    ours.where, ours.fix = "here", "mend it"

    assert type(as_sdk(ours)) is theirs
    assert "here: a; mend it" in str(as_sdk(ours))


@pytest.mark.parametrize(
    ("status", "theirs"),
    [
        (400, HttpResponseError),
        (401, ClientAuthenticationError),
        (404, ResourceNotFoundError),
        (408, ServiceRequestTimeoutError),
        (424, HttpResponseError),
    ],
)
def test_what_an_endpoint_answers_becomes_what_the_sdk_s_invoke_raises(status, theirs):
    """With the status, where the SDK's type has one."""
    made = as_sdk(EndpointError(f"answered {status}: no"))

    assert type(made) is theirs
    assert getattr(made, "status_code", status) == status


def test_a_missing_endpoint_is_what_the_sdk_says(tmp_path):
    """Through the client, too."""
    client = LocalMLClient(path=tmp_path / "ws")

    with pytest.raises(ResourceNotFoundError, match="there is no endpoint 'chat'") as raised:
        client.online_endpoints.get("chat")
    assert raised.value.status_code == 404
    with pytest.raises(TypeError):
        client.create_or_update(OnlineEndpoint)


def test_importing_penala_loads_no_sdk():
    """The command line and the workspace do without azure; so does the package until a client is asked for."""
    code = "import sys, penala.cli.main, penala.workspace.client, penala.azure; print('azure' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_the_sdk_says_nothing_of_experimental_classes(tmp_path):
    """Its one line for each would drown what a notebook says."""
    code = (
        "from penala.azure import LocalMLClient\n"
        "from azure.ai.ml.finetuning import FineTuningTaskType, create_finetuning_job\n"
        "create_finetuning_job(model='azureml:m:1', task=FineTuningTaskType.CHAT_COMPLETION, training_data='a.jsonl',"
        " validation_data='b.jsonl', output_model_name_prefix='x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout + done.stderr == ""


def test_the_repr_names_the_folder(tmp_path):
    """What a notebook shows of a client."""
    assert repr(LocalMLClient(path=Path("/ws"), registry_name="r")) == "LocalMLClient(path='/ws', registry_name='r')"
