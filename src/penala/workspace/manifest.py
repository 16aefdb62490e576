"""What is written down of an artifact when a model version is registered: each file's digest, and the environment.

It lies in manifests/DIGEST.json, and proves itself: the files' digests make the artifact's.
"""

import json
import platform
import re
from pathlib import Path
from typing import Any

import penala
from penala.workspace import shim
from penala.workspace.artifacts import digest, digest_file, environment_id, file_names, installed

_DISTRIBUTION = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)\.(dist|egg)-info")


def write_manifest(workspace: Path, found: str) -> None:
    """Write down the artifact with the digest `found`, unless that was done; hashes every file of it."""
    target = _place(workspace, found)
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        shim.write_json(target, {"files": hashed(workspace / "artifacts" / found), "environment": _environment()})


def read_manifest(workspace: Path, found: str) -> dict[str, Any] | None:
    """Return what was written down of an artifact; None when that is not there, or does not make its digest."""
    try:
        manifest: dict[str, Any] = json.loads(_place(workspace, found).read_text(encoding="utf-8"))
        files = sorted(manifest["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    if "" in manifest["files"]:  # an artifact that is one file
        return manifest if manifest["files"][""] == found else None
    return manifest if digest(["folder/1", [list(item) for item in files]]) == found else None


def hashed(artifact: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder by its relative path; of a file, under an empty one."""
    if not artifact.is_dir():
        return {"": digest_file(artifact)}
    return {name: digest_file(artifact / name) for name in file_names(artifact)}


def _place(workspace: Path, found: str) -> Path:
    return workspace / "manifests" / f"{found}.json"


def _environment() -> dict[str, Any]:
    """Return the Python and the distributions that are installed, under the id that step keys hold."""
    matches = [match for name in installed() if (match := _DISTRIBUTION.fullmatch(name))]
    return {
        "id": environment_id(),
        "python": platform.python_version(),
        "penala": penala.__version__,
        "packages": sorted(f"{match['name']}=={match['version']}" for match in matches),
    }
