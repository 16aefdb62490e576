"""Azure ML's chat-completion tutorial, each runnable block in its order, on this machine.

The blocks are read from the tutorial where it lies beside the repository; elsewhere the example's own cells run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "02_azure_notebook"
SEED = sorted((ROOT.parent / "shared" / "seed").glob("*.txt"))
CELLS = Path(__file__).with_name("run_cells.py")
OLDEST = Path(sys.prefix) / "azure-oldest"  # where `make setup` installs the oldest SDK that penala[azure] takes

# the compute check, as it was meant: the tutorial prints the end of an exception handler whose beginning is lost
COMPUTE = """
from azure.ai.ml.entities import AmlCompute
from azure.core.exceptions import ResourceNotFoundError

compute_cluster, compute_cluster_size = "gpu-cluster-big", {size!r}
try:
    workspace_ml_client.compute.get(compute_cluster)
    raise AssertionError("nobody has made it yet")
except ResourceNotFoundError:
    for tier in ("Dedicated", "LowPriority"):
        try:
            wanted = AmlCompute(name=compute_cluster, size=compute_cluster_size, tier=tier, max_instances=2)
            workspace_ml_client.compute.begin_create_or_update(wanted).wait()
            break
        except Exception as e:
            print(e)
    else:
        raise ValueError(f"WARNING! Compute size {{compute_cluster_size}} not available in workspace")
"""
# what a reader does with the root run that the tutorial speaks of
METRICS = """
import mlflow

mlflow.set_tracking_uri(workspace_ml_client.workspaces.get(workspace_ml_client.workspace_name).mlflow_tracking_uri)
(root_run,) = [
    run
    for run in mlflow.search_runs(experiment_names=[experiment_name], output_format="list")
    if run.info.run_name == pipeline_job.name
]
print("metrics:", sorted(root_run.data.metrics))
"""
FACTS = """
import json
from pathlib import Path

import azure.ai.ml

facts = {
    "sdk": azure.ai.ml.__version__,
    "workspace": workspace_ml_client.workspace_name,
    "job": pipeline_job.name,
    "status": workspace_ml_client.jobs.get(pipeline_job.name).status,
    "display_name": pipeline_job.display_name,
    "defaults": finetune_parameters,
    "gpus": gpus_per_node,
    "children": {
        child.display_name: child.status for child in workspace_ml_client.jobs.list(parent_job_name=pipeline_job.name)
    },
    "metrics": root_run.data.metrics,
    "model": [registered_model.name, registered_model.version, registered_model.job_name, registered_model.id],
    "response": json.loads(response),
    "endpoints": [endpoint.name for endpoint in workspace_ml_client.online_endpoints.list()],
}
Path("facts.json").write_text(json.dumps(facts))
"""


def blocks() -> list[str]:
    """Return the tutorial's Python blocks in their order, without the sample row, which is no Python."""
    text = SEED[0].read_text(encoding="utf-8")
    found = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    return [block for block in found if not block.startswith("{")]


def cells(size: str) -> list[str]:
    """Return the tutorial's cells with the one changed import, the compute check mended, and ours among them."""
    made = []
    for block in blocks():
        if block.startswith("# Print the exception message"):
            block = COMPUTE.format(size=size) + block[block.index("# Retrieve the compute instance") :]
        made.append(block)
        if "jobs.stream(" in block:
            made.append(METRICS)
    made[0] = made[0].replace("from azure.ai.ml import MLClient", "from penala.azure import LocalMLClient as MLClient")
    return [*made, FACTS]


class Notebook:
    """A notebook's folder: the workspace lies where penala makes it, the downloader beside the notebook."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        folder.mkdir()
        shutil.copy(EXAMPLE / "download-dataset.py", folder)

    def run(self, cells: list[str], code: int = 0) -> str:
        """Run cells in a process of their own and return what they printed."""
        (self.folder / "cells.json").write_text(json.dumps(cells))
        done = subprocess.run(
            [sys.executable, str(CELLS), "cells.json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return found


@pytest.fixture
def notebook(tmp_path, surroundings, hub) -> Notebook:
    return Notebook(tmp_path / "notebook", surroundings | {"HF_ENDPOINT": hub.url})


@pytest.mark.skipif(not SEED, reason="the tutorial does not lie beside the repository")
@pytest.mark.parametrize(
    ("generation", "sdk", "configured"),
    [
        ("2024", None, False),
        pytest.param("2025", None, True, marks=pytest.mark.slow),
        pytest.param("2026", OLDEST, False, marks=pytest.mark.slow),
    ],
)
def test_the_tutorial_runs_to_its_end(generation, sdk, configured, notebook, add_base, generations, tmp_path):
    """From the connection that finds no account to the deleted endpoint: one import line is changed.

    Its from_config finds the workspace's config.json or nothing; then the placeholders of its constructor do.
    """
    workspace = notebook.folder / ".penala" if configured else tmp_path / "workspace"
    add_base(workspace, generation)
    notebook.environment["PENALA_WORKSPACE"] = str(workspace)
    if sdk is not None:
        assert sdk.is_dir(), "`make setup` installs the oldest SDK"
        paths = [str(sdk), notebook.environment.get("PYTHONPATH", "")]
        notebook.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    said = notebook.run(cells(generations[generation]["size"]))

    facts = notebook.facts
    assert facts["sdk"].startswith("1.27." if sdk else "1.")
    assert (f"Found the config file in: {workspace / 'config.json'}" in said) == configured
    assert "experimental class" not in said
    assert facts["gpus"] == 8
    assert facts["defaults"]["deepspeed_stage"] == 2  # an integer for the component's enum of texts
    assert facts["display_name"] == "Phi-3-mini-4k-instruct-ultrachat-bs8-cosine-ds2-lora-save_limit1-seqlen-1"
    assert "16 conversations, 1,084 tokens, 8 a step, 2 steps" in said  # 5 % of 400, less a fifth for validation
    assert facts["status"] == "Completed"
    assert set(facts["children"].values()) == {"Completed"}
    assert {"eval_loss", "loss"} <= set(facts["metrics"])
    name, version, job, identity = facts["model"]
    assert name == "Phi-3-mini-4k-instruct-ultrachat-200k"
    assert job == facts["job"]
    assert identity.endswith(f"/workspaces/{facts['workspace']}/models/{name}/versions/{version}")
    assert facts["workspace"] == ("notebook" if configured else "<WORKSPACE_NAME>")
    assert isinstance(facts["response"]["output"], str | list)
    assert facts["endpoints"] == []
