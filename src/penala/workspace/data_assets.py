"""Data assets: a name and versions for files and folders, each kept as it was.

What is added is copied into artifacts/ under its content's digest, so that a later change of the user's file changes
no version. What lies in artifacts/ already, such as a job's output, is not copied.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala import assets
from penala.errors import UsageError
from penala.workspace.artifacts import digest_of, file_names, keep_copy
from penala.workspace.store import DataRow, explain

if TYPE_CHECKING:
    from penala.workspace.client import Workspace

TYPES = ("uri_file", "uri_folder", "mltable")
MLTABLE = "MLTable"


class DataAssets:
    """The data assets of one workspace."""

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._store = workspace.store

    def add(
        self,
        name: str,
        path: str | Path,
        version: str | None = None,
        type: str | None = None,
        about: Mapping[str, Any] | None = None,
        job: str | None = None,
    ) -> DataRow:
        """Add a file or folder as NAME:VERSION and return its row; without `version`, as the next whole number.

        The same content again gives the version that it has. `about` may hold description, tags and properties.
        Raises UsageError for a path that is not there or of another type, and for a version with other content.
        """
        assets.require_name(name, version)
        source = Path(os.path.expanduser(path)).absolute()
        type = _type(source, type)
        try:
            kept, digest = self._keep(source)
        except OSError as error:
            raise explain(error, source) from None
        with self._store.transaction():
            known = self._store.find(DataRow, order="created, rowid", name=name)
            for row in known:
                if (row.digest, row.type) == (digest, type) and version in (None, row.version):
                    return row
            if version is None:
                version = assets.next_version([row.version for row in known])
            elif version in {row.version for row in known}:
                fix = "choose another version, or leave it out for the next number"
                raise UsageError("is there already, with other content", where=f"{name}:{version}", fix=fix)
            row = DataRow(name, version, type, kept, digest, dict(about) if about else None, job)
            self._store.insert(row)
        return row

    def get(self, name: str, version: str = assets.LATEST) -> DataRow:
        """Return a version, or the one added last. `name` may be all that names an asset: azureml:NAME:V, ...

        Raises NotFound with the near name or the known versions.
        """
        wanted = assets.parse(name, "data")
        if version != assets.LATEST:
            wanted = assets.AssetName(wanted.name, version)
        known = self._store.find(DataRow, order="created, rowid", name=wanted.name)
        for row in reversed(known):
            if wanted.version in (assets.LATEST, row.version):
                return row
        names = {row.name for row in self._store.find(DataRow)}
        versions = [row.version for row in known]
        raise assets.missing("data asset", wanted, names, versions, shown_by="penala data list")

    def path(self, row: DataRow) -> Path:
        """Return where a version's file or folder lies. Raises UsageError when it is gone."""
        path = self._workspace.folder / row.path
        if not path.exists():
            fix = "`penala workspace doctor` looks for what is broken"
            raise UsageError("its files are gone", where=f"data asset {row.name}:{row.version}: {path}", fix=fix)
        return path

    def list(self, name: str | None = None) -> "list[dict[str, Any]]":
        """Return every version, or those of one name: by name, oldest first."""
        rows = self._store.find(DataRow, order="name, created, rowid")
        return [self.describe(row) for row in rows if name in (None, row.name)]

    def describe(self, row: DataRow) -> dict[str, Any]:
        """Return a version as `penala data asset --json` prints it."""
        return {
            "id": f"azureml:{row.name}:{row.version}",
            "name": row.name,
            "version": row.version,
            "type": row.type,
            "path": str(self._workspace.folder / row.path),
            "digest": row.digest,
            "job": row.job,
            "created": row.created,
            **(row.about or {}),
        }

    def _keep(self, source: Path) -> tuple[str, str]:
        """Return where in the workspace the content of `source` lies from now on, and its digest."""
        artifacts = self._workspace.artifacts
        if source.is_relative_to(artifacts):
            return f"artifacts/{source.relative_to(artifacts)}", digest_of(source)
        digest = keep_copy(self._store, source)
        if source.is_dir():
            return f"artifacts/{digest}", digest
        return f"artifacts/{digest}/{source.name}", digest_of(artifacts / digest / source.name)


def _type(source: Path, given: str | None) -> str:
    """Return the type of the asset at `source`. Raises UsageError when it is not there, or is not what was given."""
    if not source.exists():
        raise UsageError("no such file or folder", where=str(source), fix="give the path of a local file or folder")
    if source.is_dir() and not file_names(source):
        raise UsageError("holds no files", where=str(source))
    table = (source / MLTABLE).is_file()
    if given is None:
        return "mltable" if table else "uri_folder" if source.is_dir() else "uri_file"
    if given not in TYPES:
        raise UsageError(f"is no type of data: {given!r}", fix=f"use {', '.join(TYPES)}")
    fits = {"uri_file": source.is_file(), "uri_folder": source.is_dir(), "mltable": table}
    if not fits[given]:
        needs = {"uri_file": "a file", "uri_folder": "a folder", "mltable": f"a folder that holds {MLTABLE}"}
        raise UsageError(f"is no {given}", where=str(source), fix=f"give {needs[given]}, or leave --type out")
    return given
