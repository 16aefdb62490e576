"""examples/02_azure_notebook: the notebook is its script, and every cell of it runs in a kernel."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "02_azure_notebook"
OLDEST = Path(sys.prefix) / "azure-oldest"  # where `make setup` installs the oldest SDK that penala[azure] takes
VERSION = "import importlib.metadata\nprint(importlib.metadata.version('azure-ai-ml'))"


@pytest.fixture
def made() -> ModuleType:
    """The script that makes the notebook."""
    spec = importlib.util.spec_from_file_location("make_notebook", EXAMPLE / "make_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_what_its_script_makes(made):
    """And a notebook that Jupyter takes."""
    text = (EXAMPLE / "tutorial.ipynb").read_text(encoding="utf-8")

    assert text == made.notebook()
    nbformat.validate(nbformat.reads(text, as_version=4))


def test_one_line_names_this_machine(made):
    """Everything else is the SDK's: one import of penala, and it stands for MLClient."""
    source = (EXAMPLE / "tutorial.py").read_text(encoding="utf-8")

    assert re.findall(r"^.*import.*penala.*$|^from penala.*$", source, re.MULTILINE) == [
        "from penala.azure import LocalMLClient as MLClient"
    ]


@pytest.mark.parametrize("oldest", [False, True])
def test_every_cell_runs_in_a_kernel(tmp_path, chat_model, monkeypatch, oldest):
    """With a tiny model in the catalogue, only the cell of parameters changed, on the newest SDK and on the oldest."""
    from nbclient import NotebookClient

    from penala.workspace.client import Workspace

    shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.name)
    shutil.copytree(EXAMPLES / "01_kopitiam" / "data", tmp_path / "01_kopitiam" / "data")
    held_out = tmp_path / "01_kopitiam" / "data" / "validation.jsonl"
    lines = held_out.read_text(encoding="utf-8").splitlines(keepends=True)
    held_out.write_text("".join(lines[:8]), encoding="utf-8")  # later ones are longer than the tiny model's context
    with Workspace.open(tmp_path / "ws", create=True) as workspace:
        workspace.models.add("tiny", str(chat_model))
    monkeypatch.setenv("PENALA_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if oldest:
        if not OLDEST.is_dir():
            pytest.skip("`make setup` installs the oldest SDK")
        monkeypatch.setenv("PYTHONPATH", str(OLDEST), prepend=":")
    notebook = nbformat.read(EXAMPLE / "tutorial.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = f'model_name = "tiny"\nmax_steps = 4\nrows = 40\n{VERSION}'

    NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": tmp_path / EXAMPLE.name}}
    ).execute()

    said = [_said(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert ("1.27.1\n" in said) == oldest
    assert said[1].endswith("azureml://registries/azureml/models/tiny/versions/1\n")
    assert "Standard_ND40rs_v2 has 8 GPUs" in said[2]
    assert re.search(r"32 conversations, .* 8 a step, 4 steps", said[4])  # a fifth of 40 is kept for the test
    assert re.search(r"loss of a training step: \d+\.\d+ -> \d+\.\d+", said[5])
    assert said[6].startswith("http://127.0.0.1:")
    assert said[-1] == "[]\n"


def _said(cell: Any) -> str:
    """Return what a cell printed on stdout."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
