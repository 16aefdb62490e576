"""A fake Azure that the real MLClient of a test talks to."""

import importlib.util
import io
import json
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("azure.ai.ml", reason="needs penala[azure]")


def pytest_configure(config):
    """Let the SDK use what its own dependencies discourage; our code stays under warnings as errors."""
    config.addinivalue_line("filterwarnings", "ignore::marshmallow.warnings.RemovedInMarshmallow4Warning")
    config.addinivalue_line("filterwarnings", "ignore:The use of a 'BlobProperties' instance:DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:content_as_bytes is deprecated:DeprecationWarning")


FAKE = Path(__file__).parents[1] / "fake"
RECIPE = {
    "base_model": "Phi-4",
    "conversations": {"train": "data/train.jsonl"},
    "finetuning": {"num_train_epochs": 2},
    "model": {"name": "kopi"},
    "endpoint": {"name": "kopi-answers", "deployment": "demo"},
    "sample": {"messages": [{"role": "user", "content": "Kopi kosong?"}]},
    "azureml": {
        "compute": {"name": "gpu-cluster", "size": "Standard_NC24ads_A100_v4"},
        "instance_type": "Standard_NC24ads_A100_v4",
    },
}


def _load_fake() -> None:
    """Make the folder fake/ importable as fake_azure."""
    file, places = FAKE / "__init__.py", [str(FAKE)]
    spec = importlib.util.spec_from_file_location("fake_azure", file, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["fake_azure"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load_fake()


@pytest.fixture
def azure(tmp_path, monkeypatch):
    """A fake Azure with one base model, reached by whatever a test starts. A request that it does not know fails it."""
    from fake_azure import TENANT, FakeAzure, contents

    folder = tmp_path / "authority"
    folder.mkdir()
    fake = FakeAzure(folder)
    tags = contents.allowed(contents.A100) | {"model_specific_defaults": str(contents.DEFAULTS)}
    fake.models = {"Phi-4": {"7": contents.registry_model(tags, {"finetune-min-sku-spec": "24|1|220|64"})}}
    fake.components = {"chat_completion_pipeline": {"0.0.82": contents.azures_pipeline()}}
    fake.sizes, fake.usages = contents.SIZES, contents.USAGES
    signed_in = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "tester", "AZURE_CLIENT_SECRET": "secret"}
    about = {"AZURE_ML_DISABLE_ON_DISK_CACHE": "true", "HOME": str(tmp_path)}
    for name, value in (fake.proxy.environment | signed_in | about).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Azure is asked every few seconds
    yield fake
    fake.proxy.close()
    assert not fake.proxy.unknown


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a config.json of the fake workspace."""
    from fake_azure import GROUP, SUBSCRIPTION, WORKSPACE

    folder = tmp_path / "work"
    folder.mkdir()
    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": WORKSPACE}
    (folder / "config.json").write_text(json.dumps(names), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def recipe(place):
    """A recipe that runs on the fake, with its conversations; returns a function that writes it with changes."""
    from fake_azure import contents

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

    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody is there to answer

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
