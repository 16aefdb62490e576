"""Which folder is the workspace, and when it is made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penala.errors import WorkspaceError
from penala.workspace.client import Workspace, locate


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENALA_WORKSPACE", raising=False)


def test_the_named_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the variable, the variable over the nearest .penala, that over a new one here."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    assert locate() == below / ".penala"
    (tmp_path / ".penala").mkdir()
    assert locate() == tmp_path / ".penala"
    monkeypatch.setenv("PENALA_WORKSPACE", "named")
    assert locate() == below / "named"
    assert locate(tmp_path / "given") == tmp_path / "given"


def test_only_a_writer_makes_a_workspace(tmp_path: Path) -> None:
    """Reading a workspace that is not there is an error that leaves nothing behind."""
    with pytest.raises(WorkspaceError, match=r"\.penala: there is no workspace; `penala run RECIPE` makes one"):
        Workspace.open()
    assert list(tmp_path.iterdir()) == []

    with Workspace.open(create=True) as made:
        assert made.jobs.list() == []
    assert json.loads((tmp_path / ".penala" / "config.json").read_text())["workspace_name"] == tmp_path.name
    with Workspace.open() as found:
        assert found.folder == tmp_path / ".penala"


def test_making_it_twice_changes_nothing(tmp_path: Path) -> None:
    """The second writer finds what the first one made."""
    Workspace.open(tmp_path / "ws", create=True).close()
    config = (tmp_path / "ws" / "config.json").read_bytes()
    Workspace.open(tmp_path / "ws", create=True).close()

    assert (tmp_path / "ws" / "config.json").read_bytes() == config


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A file where the workspace should be is no traceback."""
    (tmp_path / "ws").write_text("mine")

    with pytest.raises(WorkspaceError, match=r"ws"):
        Workspace.open(tmp_path / "ws", create=True)


def test_opening_is_light() -> None:
    """The client loads no stage, and none of what costs a second to import."""
    code = "import sys, penala.workspace.client, penala.workspace.jobs, penala.workspace.runner; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())

    heavy = {"torch", "transformers", "mlflow", "pydantic", "yaml", "msgspec", "starlette", "httpx", "numpy"}
    assert not heavy & loaded
    stages = ("conversations", "tokens", "basemodel", "training", "engines", "evaluation", "package", "endpoint")
    assert not {f"penala.{stage}" for stage in stages} & loaded
