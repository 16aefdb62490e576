"""penala's own components in a form that Azure ML takes: each step's code folder carries penala itself, as a wheel.

The wheel is built from the package that runs here, for no index has it; what it needs comes from PyPI, into an
environment that Azure builds once.
"""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import yaml

import penala
from penala.inputs import PIPELINE, component_spec

IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.4-ubuntu22.04:latest"
CODE = "code"
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same files give the same wheel, which Azure then has already
_EXTRA = re.compile(r";.*\bextra\b")


def write_components(folder: Path) -> Path:
    """Write the pipeline component, its steps and their common code into `folder`; return the pipeline's file."""
    code = folder / CODE
    code.mkdir(parents=True)
    wheel = write_wheel(code)
    environment = {"image": IMAGE, "conda_file": _conda()}
    pipeline = component_spec(PIPELINE)
    for job in pipeline["jobs"].values():
        name = Path(job["component"]).stem
        spec = dict(component_spec(name))
        install = f"python -m pip install --quiet --no-deps ./{wheel.name}"
        spec |= {"code": f"./{CODE}", "environment": environment, "command": f"{install} && {spec['command']}"}
        _write(folder / f"{name}.yaml", spec)
    file = folder / f"{PIPELINE}.yaml"
    _write(file, dict(pipeline))
    return file


def _write(file: Path, spec: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=10_000), encoding="utf-8")


def _conda() -> dict[str, Any]:
    """Return the environment that the steps run in: Python as here at least, and what penala requires."""
    needed = [text for text in metadata.requires("penala") or () if not _EXTRA.search(text)]
    return {"name": "penala", "channels": ["conda-forge"], "dependencies": ["python=3.11", "pip", {"pip": needed}]}


def write_wheel(folder: Path) -> Path:
    """Write the running package as a wheel into `folder` and return it. Raises OSError."""
    version = penala.__version__
    about = f"penala-{version}.dist-info"
    info = metadata.distribution("penala").read_text("METADATA") or f"Name: penala\nVersion: {version}\n"
    wheel = "Wheel-Version: 1.0\nGenerator: penala\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents = dict(_package()) | {f"{about}/METADATA": info.encode(), f"{about}/WHEEL": wheel.encode()}
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in contents.items())
    contents[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    path = folder / f"penala-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data, zipfile.ZIP_DEFLATED)
    return path


def _package() -> Iterator[tuple[str, bytes]]:
    with resources.as_file(resources.files("penala")) as root:
        for file in sorted(root.rglob("*")):
            inside = file.relative_to(root)
            if file.is_file() and "__pycache__" not in inside.parts:
                yield f"penala/{inside.as_posix()}", file.read_bytes()


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
