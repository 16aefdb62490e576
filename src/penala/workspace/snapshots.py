"""Snapshots of code folders: what a command's working folder starts with, kept in artifacts/ by content."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from penala.errors import UsageError
from penala.workspace.artifacts import keep
from penala.workspace.store import explain

if TYPE_CHECKING:
    from penala.workspace.client import Workspace
    from penala.workspace.components import CommandComponent

IGNORE_FILES = (".amlignore", ".gitignore")  # the first that is there counts, as in Azure ML
_NEVER = frozenset({".git", "__pycache__", ".ipynb_checkpoints"})
_MANY_BYTES = 300_000_000  # Azure ML takes no larger snapshot


class Snapshots:
    """Keeps the code of components. Unless `keep`, it only looks whether it can be kept."""

    def __init__(self, workspace: Workspace, *, keep: bool = True) -> None:
        self._workspace = workspace
        self._keep = keep
        self._known: dict[tuple[Path | None, tuple[Path, ...]], str | None] = {}

    def __call__(self, component: CommandComponent) -> str | None:
        """Return the digest of the artifact that holds a component's code, None when it has none.

        Raises UsageError for code that is not there, or that does not lie on this machine.
        """
        if component.is_ours or (component.code is None and not component.includes):
            return None
        folder = component.place.folder
        code = None if component.code is None else _local(folder, component.code)
        wanted = (code, tuple(_local(folder, include) for include in component.includes))
        if wanted not in self._known:
            try:
                self._known[wanted] = self._kept(*wanted)
            except OSError as error:
                raise UsageError(f"cannot be read: {error.strerror}", where=str(error.filename or code)) from None
        return self._known[wanted]

    def _kept(self, code: Path | None, includes: tuple[Path, ...]) -> str | None:
        folder = self._workspace.folder
        files = dict(code_files(code, folder)) if code is not None else {}
        for include in includes:
            name = include.name if include.is_dir() else ""
            files |= {os.path.join(name, inner): file for inner, file in code_files(include, folder)}
        size = sum(file.stat().st_size for file in files.values())
        if size > _MANY_BYTES:
            fix = f"leave out what no step needs, in a file {IGNORE_FILES[0]} beside the code"
            raise UsageError(
                f"holds {size / 1e6:.0f} MB, more than the {_MANY_BYTES / 1e6:.0f} MB of a snapshot", fix=fix
            )
        return self._stored(files) if self._keep else None

    def _stored(self, files: dict[str, Path]) -> str:
        artifacts = self._workspace.artifacts
        try:
            with tempfile.TemporaryDirectory(prefix=".code-", dir=artifacts) as work:
                copy = Path(work) / "copy"
                copy_files(files, copy)
                return keep(self._workspace.store, copy)
        except OSError as error:
            raise explain(error, artifacts) from None


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into the new folder `folder` under their names there."""
    folder.mkdir()
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder / name)


def code_files(code: Path, workspace: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder by their names in it, or the one file.

    What the folder's ignore file names stays out, and so does the workspace.
    """
    if code.is_file():
        yield code.name, code
        return
    from pathspec import GitIgnoreSpec

    ignore = next((code / name for name in IGNORE_FILES if (code / name).is_file()), None)
    spec = GitIgnoreSpec.from_lines(ignore.read_text(encoding="utf-8").splitlines() if ignore else [])
    # every folder once, since links may go round in circles, and the workspace never
    seen = {os.path.realpath(workspace), os.path.realpath(code)}
    for parent, folders, names in os.walk(code, followlinks=True):
        below = os.path.relpath(parent, code)
        prefix = "" if below == "." else f"{below}/"
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NEVER
            and not spec.match_file(f"{prefix}{name}/")
            and os.path.realpath(os.path.join(parent, name)) not in seen
        )
        seen |= {os.path.realpath(os.path.join(parent, name)) for name in folders}
        for name in names:
            if not spec.match_file(prefix + name) and os.path.isfile(os.path.join(parent, name)):
                yield prefix + name, Path(parent, name)


def _local(folder: Path, code: str) -> Path:
    """Return the path that `code` names."""
    bare = code.removeprefix("file:")
    path = (folder / bare.removeprefix("azureml:")).absolute()
    if path.exists():
        return path
    if code.startswith(("git+", "http://", "https://", "azureml:", "/subscriptions/")):
        raise UsageError(f"is {code}, which is not on this machine", fix="give the path of a local folder")
    raise UsageError(f"there is no {path}", fix="check the path")
