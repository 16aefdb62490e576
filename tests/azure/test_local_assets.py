"""Models, data, components, environments, computes: real entities go in and come out."""

import re
from pathlib import Path

import pytest
from azure.ai.ml import load_component
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import AmlCompute, ComputeInstance, Data, Environment, Model
from azure.ai.ml.exceptions import ValidationException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from penala.azure import LocalMLClient


@pytest.fixture
def client(tmp_path) -> LocalMLClient:
    return LocalMLClient(path=tmp_path / "ws")


@pytest.fixture
def package(tmp_path) -> Path:
    """What passes for an MLflow model where nobody loads it."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "MLmodel").write_text("flavors: {}\n")
    return tmp_path / "package"


def test_a_base_model_has_the_tags_of_its_registry(tmp_path, add_base, generations):
    """Lists and dicts are the text of a Python literal, which is what the tutorial reads."""
    add_base(tmp_path / "ws", "2025")
    client = LocalMLClient(registry_name="azureml", path=tmp_path / "ws")

    model = client.models.get("Phi-3-mini-4k-instruct", label="latest")

    assert (model.version, model.type) == ("16", "mlflow_model")
    assert model.tags == {key: str(value) for key, value in generations["2025"]["tags"].items()}
    assert [one.version for one in client.models.list("Phi-3-mini-4k-instruct")] == ["16", "15"]


def test_what_left_the_tags_is_in_no_entity(tmp_path, add_base):
    """Since June 2026 the registry keeps the allow lists where the SDK's entity shows nothing."""
    add_base(tmp_path / "ws", "2026")
    client = LocalMLClient(registry_name="azureml", path=tmp_path / "ws")

    model = client.models.get("Phi-3-mini-4k-instruct", version="16")

    assert set(model.tags) == {"_aml_system_vanity_registry", "model_specific_defaults"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "Must provide either version or label."),
        ({"version": "1", "label": "latest"}, "Cannot specify both version and label."),
        ({"label": "stable"}, "has no label 'stable'"),
    ],
)
def test_a_model_is_asked_for_by_version_or_label(asked, message, client):
    """With the SDK's own words where it has some."""
    with pytest.raises(ValidationException, match=re.escape(message)):
        client.models.get("m", **asked)


def test_a_folder_becomes_a_model_version(client, package, tmp_path):
    """It is copied; name, version, description and tags come back, and so does the folder on request."""
    made = client.create_or_update(
        Model(name="m", path=str(package), type="mlflow_model", description="mine", tags={"a": "b"})
    )
    (package / "MLmodel").write_text("changed")
    for _ in range(2):  # the second download writes over the first
        client.models.download("m", "1", download_path=tmp_path / "out")

    assert (made.name, made.version, made.type, made.description, made.tags) == (
        "m",
        "1",
        "mlflow_model",
        "mine",
        {"a": "b"},
    )
    assert made.id.endswith("/models/m/versions/1")
    assert client.models.get("m", label="latest").id == made.id
    assert (tmp_path / "out" / "m" / "MLmodel").read_text() == "flavors: {}\n"


def test_a_version_is_never_another_content(client, package):
    """The same again is the same version; something else under its number is refused, and else gets the next."""
    first = client.models.create_or_update(Model(name="m", version="7", path=package))
    again = client.models.create_or_update(Model(name="m", version="7", path=package))
    (package / "more").write_text("more")

    assert again.version == first.version
    with pytest.raises(HttpResponseError, match="is registered already, with other content"):
        client.models.create_or_update(Model(name="m", version="7", path=package))
    assert client.models.create_or_update(Model(name="m", path=package)).version == "8"
    assert [model.version for model in client.models.list("m")] == ["8", "7"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "m", "path": "nowhere"}, "there is no "),
        ({"name": "m"}, "needs a name and a path"),
        ({"name": "my model", "path": "."}, "is no name of an asset"),
        ({"name": "m:1", "path": "."}, "is no name of an asset"),
        ({"name": "m", "path": ".", "type": "triton_model"}, "not triton_model"),
        ({"name": "m", "path": "azureml://datastores/d/paths/p"}, "the datastore 'd' has no p here"),
        ({"name": "m", "path": "runs:/1/model"}, "cannot be reached from here"),
    ],
)
def test_a_model_that_is_none_is_refused(model, message, client, tmp_path, monkeypatch):
    """With what is wrong, before anything is kept."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValidationException, match=message):
        client.models.create_or_update(Model(**model))


def test_a_folder_without_mlmodel_is_a_custom_model(client, tmp_path):
    """As the other type it is refused."""
    (tmp_path / "one.pkl").write_text("1")
    file = client.models.create_or_update(Model(name="one", path=tmp_path / "one.pkl", type="custom_model"))
    client.models.download("one", file.version, download_path=tmp_path / "out")
    assert (tmp_path / "out" / "one" / "one.pkl").read_text() == "1"
    with pytest.raises(ValidationException, match=r"one\.pkl is a file; give a folder"):
        client.models.create_or_update(Model(name="one", path=tmp_path / "one.pkl", type="mlflow_model"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "weights").write_text("1")

    with pytest.raises(ValidationException, match="holds no file MLmodel"):
        client.models.create_or_update(Model(name="m", path=tmp_path / "plain", type="mlflow_model"))
    made = client.models.create_or_update(Model(name="m", path=tmp_path / "plain", type="custom_model"))
    assert made.type == "custom_model"


def test_a_workspace_s_client_does_not_see_base_models(client):
    """As on Azure: they are its registry's."""
    with pytest.raises(ResourceNotFoundError, match="a registry's client finds base models"):
        client.models.get("SmolLM2-135M-Instruct", label="latest")
    with pytest.raises(ResourceNotFoundError, match="no model is called 'x'"):
        client.models.get("x", version="1")


def test_data_assets_have_versions(client, tmp_path):
    """A file is kept as it was; the newest answers to the label."""
    file = tmp_path / "train.jsonl"
    file.write_text("1\n")
    first = client.data.create_or_update(Data(name="talk", path=str(file), type="uri_file", description="chats"))
    file.write_text("2\n")
    second = client.data.create_or_update(Data(name="talk", path=str(file), type="uri_file"))

    assert (first.version, second.version) == ("1", "2")
    assert Path(client.data.get("talk", version="1").path).read_text() == "1\n"
    assert client.data.get("talk", version="1").description == "chats"
    assert client.data.get("talk", label="latest").id == second.id
    assert [one.version for one in client.data.list("talk")] == ["2", "1"]
    with pytest.raises(ResourceNotFoundError, match="talk has no version '3'"):
        client.data.get("talk", version="3")
    with pytest.raises(ValidationException, match="is a file"):
        client.data.create_or_update(Data(name="talk", path=str(file), type="mltable"))


def test_a_version_says_something_else_of_itself(client, package, tmp_path):
    """What came from here goes in again as it is; a second registration changes what it gives."""
    (tmp_path / "train.jsonl").write_text("1\n")
    about = {"description": "chats", "tags": {"a": "b"}}
    for operations, entity in (
        (client.data, Data(name="d", path="train.jsonl", type="uri_file", base_path=tmp_path, **about)),
        (client.models, Model(name="m", path=package, type="mlflow_model", **about)),
    ):
        made = operations.create_or_update(entity)
        made.tags["c"] = "d"
        assert operations.create_or_update(made).tags == {"a": "b", "c": "d"}
        entity.tags = {"e": "f"}
        entity.description = None
        operations.create_or_update(entity)

        found = operations.get(entity.name, version="1")
        assert (found.description, found.tags) == ("chats", {"e": "f"})
        found.tags.clear()
        found.description = None
        again = operations.create_or_update(found)
        assert (again.description, again.tags or {}) == (None, {})


def test_what_is_archived_leaves_the_lists(client, package, tmp_path):
    """A version, or a name with all its versions; it can be got and restored. A list without a name has the newest."""
    (tmp_path / "x.yml").write_text("type: command\nname: x\ncommand: ls\nenvironment: azureml:e:1\n")
    (tmp_path / "1.txt").write_text("1")
    (tmp_path / "2.txt").write_text("2")
    for operations, entities in (
        (client.models, [Model(name="x", path=tmp_path / name, type="custom_model") for name in ("1.txt", "2.txt")]),
        (client.data, [Data(name="x", path=tmp_path / name, type="uri_file") for name in ("1.txt", "2.txt")]),
        (client.environments, [Environment(name="x", image=image) for image in ("a", "b")]),
        (
            client.components,
            [load_component(tmp_path / "x.yml", params_override=[{"description": text}]) for text in ("a", "b")],
        ),
    ):
        for entity in entities:
            operations.create_or_update(entity)

        def names(operations=operations, **more):
            return [(one.name, one.version) for one in operations.list(**more) if one.name == "x"]

        assert [(one.version, one.latest_version) for one in operations.list() if one.name == "x"] == [("2", "2")]
        operations.archive("x", version="2")
        assert names(name="x") == names() == [("x", "1")]
        assert names(name="x", list_view_type=ListViewType.ARCHIVED_ONLY) == [("x", "2")]
        assert operations.get("x", version="2").version == "2"
        operations.restore("x", label="latest")
        operations.archive("x")
        assert names(name="x") == names() == []
        assert names(name="x", list_view_type=ListViewType.ALL) == [("x", "2"), ("x", "1")]
        operations.restore("x")
        assert names(name="x") == [("x", "2"), ("x", "1")]
        with pytest.raises(ResourceNotFoundError):
            operations.archive("y")
        with pytest.raises(ResourceNotFoundError):
            operations.restore("x", version="3")
    with pytest.raises(ValidationException, match="has no archive"):
        LocalMLClient(registry_name="azureml", path=client.path).models.archive("x")


@pytest.mark.parametrize("group", ["models", "data", "environments"])
def test_what_is_of_another_type_is_refused(group, client):
    """By the name of the type that it should have."""
    with pytest.raises(ValidationException, match=r"str is no .*; azure.ai.ml.entities has "):
        getattr(client, group).create_or_update("train.jsonl")


def test_a_component_is_kept_with_its_code(client, tmp_path):
    """What load_component reads goes in; what comes back makes steps, wherever the files have gone."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "say.py").write_text("print('hello')\n")
    (tmp_path / "say.yml").write_text(
        "type: command\nname: say\nversion: 3\ncommand: python say.py\ncode: ./src\nenvironment: azureml:e:1\n"
    )
    made = client.create_or_update(load_component(tmp_path / "say.yml"))
    (tmp_path / "src" / "say.py").unlink()

    found = client.components.get("say")
    assert (made.name, made.version) == ("say", "3")
    assert (Path(found.base_path) / found.code / "say.py").is_file()
    assert [one.name for one in client.components.list("say")] == ["say"]

    @pipeline()
    def twice(text: str) -> None:
        found().display_name = text

    assert client.components.create_or_update(twice).inputs["text"].type == "string"
    with pytest.raises(ValidationException, match="str is no component"):
        client.components.create_or_update("say")


def test_an_environment_is_remembered(client, tmp_path):
    """Nothing is built: jobs run in this Python, and their answer says so."""
    (tmp_path / "conda.yml").write_text("name: e\ndependencies: [python=3.11]\n")
    environment = Environment(name="e", image="mcr.microsoft.com/x", conda_file=tmp_path / "conda.yml")

    made = client.create_or_update(environment)

    assert (made.name, made.version, made.image) == ("e", "1", "mcr.microsoft.com/x")
    assert client.environments.get("e", label="latest").conda_file["name"] == "e"
    assert client.environments.create_or_update(Environment(name="e", image="y")).version == "2"
    assert [one.version for one in client.environments.list("e")] == ["2", "1"]
    with pytest.raises(ResourceNotFoundError, match="no environment e:9; there is 1, 2"):
        client.environments.get("e", version="9")


def test_a_compute_stands_in_for_a_size(client):
    """What the tutorial does with one: create, look at its state and size, find its GPUs in the list of sizes."""
    with pytest.raises(ResourceNotFoundError, match="no compute is called 'gpu-cluster-big'"):
        client.compute.get("gpu-cluster-big")
    wanted = AmlCompute(name="gpu-cluster-big", size="standard_nd40rs_v2", tier="LowPriority", max_instances=2)

    client.compute.begin_create_or_update(wanted).wait()

    found = client.compute.get("gpu-cluster-big")
    assert (found.provisioning_state, found.size, found.tier) == ("Succeeded", "Standard_ND40rs_v2", "low_priority")
    assert (found.min_instances, found.max_instances) == (0, 2)
    assert {size.name: size.gpus for size in client.compute.list_sizes()}["Standard_ND40rs_v2"] == 8
    assert [one.name for one in client.compute.list()] == ["local", "gpu-cluster-big"]
    assert [one.name for one in client.compute.list(compute_type="AmlCompute")] == ["local", "gpu-cluster-big"]
    assert list(client.compute.list(compute_type="ComputeInstance")) == []
    found.max_instances = 3
    assert client.compute.begin_update(found).result().max_instances == 3
    client.compute.begin_delete("gpu-cluster-big").wait()
    with pytest.raises(ResourceNotFoundError, match="no compute is called 'gpu-cluster-big'"):
        client.compute.begin_update(found)
    assert [one.name for one in client.compute.list()] == ["local"]


def test_this_machine_is_a_compute_with_a_size(client):
    """So that a notebook that looks its size up finds it, and multiplies by at least 1."""
    local = client.compute.get("local")

    assert {size.name: size.gpus for size in client.compute.list_sizes()}[local.size] >= 1


def test_sizes_and_kinds_that_are_none_are_refused(client):
    """With the near name."""
    with pytest.raises(ValidationException, match="Standard_ND40rs_v2"):
        client.compute.begin_create_or_update(AmlCompute(name="big", size="Standard_ND40rs_v3")).result()
    with pytest.raises(ValidationException, match="ComputeInstance has no stand-in here"):
        client.compute.begin_create_or_update(ComputeInstance(name="me", size="Standard_DS3_v2"))
    with pytest.raises(ValidationException, match="a compute needs a name and a size"):
        client.compute.begin_create_or_update(AmlCompute(name="big"))


def test_the_workspace_says_where_mlflow_looks(client):
    """The one workspace, by its name or without one."""
    assert client.workspaces.get(client.workspace_name).mlflow_tracking_uri == f"sqlite:///{client.path}/mlflow.db"
    assert [one.name for one in client.workspaces.list()] == [client.workspace_name]
    with pytest.raises(ResourceNotFoundError, match="no workspace is called 'other'"):
        client.workspaces.get("other")
