"""penala's own components on Azure: what is uploaded, and whether the wheel in it runs."""

import io
import os
import re
import subprocess
import sys
import zipfile

import pytest
import yaml
from fake_azure import contents


@pytest.mark.slow
def test_a_run_with_our_components_uploads_penala_once(azure, recipe, on_azure):
    """All steps share one code folder with the wheel; the next run finds the code and the conversations there."""
    size = {"name": "cpu-cluster", "size": contents.CPU}
    recipe(azureml={"compute": size, "instance_type": contents.A100}, evaluation={"replies": {"limit": 2}})

    code, result, err = on_azure("--components", "penala")

    assert code == 0, err
    assert result["reply"] == "from demo"
    wheels = [blob for blob in azure.blobs if blob.endswith(".whl")]
    assert len(wheels) == 1
    with zipfile.ZipFile(io.BytesIO(azure.blobs[wheels[0]][0])) as wheel:
        assert "penala/components/chat_completion_finetune.yaml" in wheel.namelist()
    (job,) = azure.proxy.sent("PUT", "/jobs/")
    node = job.json["properties"]["jobs"]["chat_completion_pipeline"]
    assert node["inputs"]["evaluation_config_params"]["value"] == '{"replies": {"limit": 2}}'
    assert node["inputs"]["compute_finetune"]["value"] == "cpu-cluster"
    assert "/components/" in node["componentId"]
    specs = [call.json["properties"]["componentSpec"] for call in azure.proxy.sent("PUT", "/components/")]
    commands = [spec["command"] for spec in specs if "command" in spec]
    assert len(commands) == 6
    assert all(
        command.startswith("python -m pip install --quiet --no-deps ./penala-") and " && python -m penala." in command
        for command in commands
    )

    puts = len(azure.proxy.sent("PUT", "blob|/codes/"))
    code, _, err = on_azure("--components", "penala")

    assert code == 0, err
    assert len(azure.proxy.sent("PUT", "blob|/codes/")) == puts


@pytest.mark.slow
def test_the_wheel_is_one(tmp_path):
    """pip installs it, and a step's module starts from it alone, outside of the source folder."""
    from penala.azure.remote.own_components import write_wheel

    wheel = write_wheel(tmp_path)
    target = tmp_path / "installed"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, timeout=120)

    code = "import penala; print(penala.__file__)"
    environment = os.environ | {"PYTHONPATH": str(target)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    helped = subprocess.run(
        [sys.executable, "-m", "penala.components.ft_nlp_common_validation", "--help"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )

    assert found.stdout.startswith(str(target))
    assert "--validation_info" in helped.stdout


def test_the_same_package_gives_the_same_wheel(tmp_path):
    """Azure keeps code by its hash: no byte may depend on the moment."""
    from penala.azure.remote.own_components import write_wheel

    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first, second = (write_wheel(folder).read_bytes() for folder in folders)

    assert first == second


def test_the_environment_holds_what_penala_needs_and_no_extra(tmp_path):
    """Each step's YAML asks for Python and penala's own requirements."""
    from penala.azure.remote.own_components import write_components

    write_components(tmp_path)
    spec = yaml.safe_load((tmp_path / "chat_completion_finetune.yaml").read_text(encoding="utf-8"))
    *_, pip = spec["environment"]["conda_file"]["dependencies"]

    names = {re.match(r"[\w-]+", text)[0] for text in pip["pip"]}
    assert {"torch", "transformers", "msgspec"} <= names
    assert not names & {"pytest", "ruff", "azure-ai-ml"}
