"""A command that installs packages: they are there for it, and this Python stays as it is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from penala.workspace.overlay import make_overlay


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package called penala, of a version of its own: the worst that a command can install."""
    file = tmp_path / "penala-99.0-py3-none-any.whl"
    about = "penala-99.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("penala/__init__.py", "new = True\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: penala\nVersion: 99.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return file


@pytest.mark.parametrize("pip", ["pip", "python -m pip"])
def test_what_is_installed_is_there_for_the_command_alone(tmp_path: Path, wheel: Path, pip: str) -> None:
    """Before what is installed here, which is there too, satisfies pip, and is not removed."""
    pytest.importorskip("pip")
    python = make_overlay(tmp_path / "a b" / "python")
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
    script = (
        f"{pip} install -q --no-deps '{wheel}' && {pip} install pyyaml && python -c 'import penala, yaml; penala.new'"
    )
    ran = subprocess.run(["sh", "-ec", script], env=environment, cwd=tmp_path, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    assert "already satisfied" in ran.stdout
    here = subprocess.run([sys.executable, "-c", "import penala; print(hasattr(penala, 'new'))"], capture_output=True)
    assert here.stdout == b"False\n"
