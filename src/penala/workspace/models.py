"""Model versions: base models of the catalogue, and tuned ones that jobs registered, with where they come from.

The store owns name and version; MLflow's registry mirrors it. A tuned version points at its package in artifacts/.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala import assets
from penala.errors import NotFound, UsageError, WorkspaceError
from penala.workspace import base_models, provenance
from penala.workspace.manifest import write_manifest
from penala.workspace.store import LineageRow, ModelRow, Store, explain

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry
    from penala.workspace.client import Workspace

Report = Callable[[dict[str, Any]], None]


def register(
    store: Store,
    name: str,
    version: str | None,
    digest: str,
    *,
    job: str | None = None,
    tags: Mapping[str, str] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> ModelRow:
    """Register the artifact `digest` as NAME:VERSION and return its row; without `version`, as the next whole number.

    Registering the same content again gives the version that it has. Raises WorkspaceError for a version that holds
    other content, and for an artifact that is not there.
    """
    path = f"artifacts/{digest}"
    if not (store.path.parent / path).exists():
        raise WorkspaceError(f"there is no artifact {digest}", where=f"{name}:{version or 'next'}")
    write_manifest(store.path.parent, digest)
    with store.transaction():
        known = store.find(ModelRow, name=name)
        same = [row for row in known if row.digest == digest and version in (None, row.version)]
        if same:
            return same[-1]
        if version is None:
            version = assets.next_version([row.version for row in known])
        elif any(row.version == version for row in known):
            fix = "choose another version, or leave it out for the next number"
            raise WorkspaceError("is registered already, with other content", where=f"{name}:{version}", fix=fix)
        row = ModelRow(name, version, digest, path, job, dict(tags or {}), dict(properties or {}))
        store.insert(row)
        store.insert(LineageRow(f"{name}:{version}", "registered", digest, job or ""), replace=True)
    return row


def list_models(path: str | Path | None, task: str | None = None) -> list[dict[str, Any]]:
    """Return what `Models.list` does for the workspace at `path`; where there is none, the base models."""
    with existing(path) as workspace:
        return workspace.models.list(task) if workspace else _base_summaries(None, task)


def show_model(path: str | Path | None, reference: str) -> dict[str, Any]:
    """Return what `Models.show` does for the workspace at `path`; where there is none, a base model can be shown."""
    from penala.basemodel import catalogue

    wanted = assets.parse(reference, "models")
    with existing(path) as workspace:
        return workspace.models.show(reference) if workspace else _base_shown(catalogue.get(str(wanted)))


def fetch_base(workspace: "Workspace", model: str, report: Report) -> Path:
    """Bring a base model into the workspace's cache, ready to be used, and return its folder."""
    from penala.basemodel.sources import obtain

    try:
        return obtain(base_models.resolve(workspace, model), workspace.cache, report)
    except OSError as error:
        raise explain(error, workspace.cache) from None


@contextlib.contextmanager
def existing(path: str | Path | None) -> "Iterator[Workspace | None]":
    """Open the workspace at `path`, or yield None where there is none."""
    from penala.workspace.client import Workspace, locate

    if not (locate(path) / "penala.db").exists():
        yield None
        return
    with Workspace.open(path) as workspace:
        yield workspace


class Models:
    """The base models and the tuned models of one workspace."""

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._store = workspace.store

    def register(self, name: str, version: str | None, digest: str, **about: Any) -> ModelRow:
        """Register an artifact of this workspace; see `register`."""
        return register(self._store, name, version, digest, **about)

    def add(self, name: str, source: str, version: str | None = None, **about: Any) -> "Entry":
        """Add a base model to the catalogue; see `base_models.add`."""
        return base_models.add(self._workspace, name, source, version, **about)

    def resolve(self, text: str, folder: Path | None = None) -> "Entry":
        """Return what a recipe's base_model means; see `base_models.resolve`."""
        return base_models.resolve(self._workspace, text, folder)

    def list(self, task: str | None = None) -> "list[dict[str, Any]]":
        """Return a summary of every version: base models by name, then tuned ones, oldest first."""
        tuned = [_tuned_summary(row) for row in self._store.find(ModelRow, order="name, created")]
        return [*_base_summaries(self._workspace, task), *(model for model in tuned if task in (None, model["task"]))]

    def show(self, reference: str) -> dict[str, Any]:
        """Return all that is known of NAME:VERSION, or of NAME's newest version. Raises NotFound."""
        found = self.find(reference)
        if not isinstance(found, ModelRow):
            return _base_shown(found)
        from penala.basemodel.mlflow_layout import metadata

        folder = self._workspace.folder / found.path
        is_mlflow = (folder / "MLmodel").is_file()
        return _tuned_summary(found) | {
            "type": "mlflow_model" if is_mlflow else "custom_model",
            "tags": found.tags,
            "properties": found.properties,
            "metadata": metadata(folder) if is_mlflow else {},
            "folder": str(folder),
        }

    def folder(self, reference: str, report: Report = lambda event: None) -> Path:
        """Return the folder of a version, which nobody may change: a tuned one's package, a base model's MLflow folder.

        `reference` is NAME[:VERSION], NAME@latest or an id of Azure ML's. A base model is fetched and packaged where it
        is not in the cache. Raises NotFound; ModelError for weights that cannot be had.
        """
        found = self.find(reference)
        if isinstance(found, ModelRow):
            return self._workspace.folder / found.path
        return base_models.package(self._workspace, self.resolve(found.reference), report)

    def download(self, reference: str, to: Path, report: Report = lambda event: None) -> Path:
        """Copy the folder of a version, as `folder` finds it, to `to`, which must be new or empty; return it.

        Raises UsageError for a folder that holds something.
        """
        to = Path(os.path.expanduser(to)).absolute()
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError("is not empty", where=str(to), fix="name a new folder")
        source = self.folder(reference, report)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as work:
                copy = Path(work) / "copy"
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
                copy.rename(to)
        except OSError as error:
            raise explain(error, to) from None
        return to

    def lineage(self, reference: str) -> str:
        """Draw what a version was made from; see `provenance.lineage`."""
        return provenance.lineage(self._workspace, reference)

    def verify(self, reference: str) -> dict[str, Any]:
        """Say whether a version's files are what was registered; see `provenance.verify`."""
        return provenance.verify(self._workspace, reference)

    def explain(self, reference: str) -> dict[str, Any]:
        """Say what a version was made of; see `provenance.explain`."""
        return provenance.explain(self._workspace, reference)

    def find(self, reference: str) -> "ModelRow | Entry":
        """Return the tuned version, else the base model, that `reference` names; in a registry, the base model first.

        Raises NotFound with the near name or the known versions.
        """
        from penala.basemodel import catalogue

        wanted = assets.parse(reference, "models")
        rows = self._store.find(ModelRow, order="created, rowid", name=wanted.name)
        tuned = next((row for row in reversed(rows) if wanted.version in (assets.LATEST, row.version)), None)
        if tuned is not None and wanted.registry is None:
            return tuned
        mine = base_models.entries(self._workspace)
        with contextlib.suppress(NotFound):
            return catalogue.get(str(wanted), extra=mine)
        if tuned is not None:
            return tuned
        known = catalogue.entries(extra=mine)
        versions = [entry.version for entry in known if entry.name == wanted.name] + [row.version for row in rows]
        names = {entry.name for entry in known} | {row.name for row in self._store.find(ModelRow)}
        raise assets.missing("model", wanted, names, versions, shown_by="penala models list")


def _base_summaries(workspace: "Workspace | None", task: str | None) -> list[dict[str, Any]]:
    from penala.basemodel import catalogue

    return [_base_summary(entry) for entry in catalogue.entries(task, extra=base_models.entries(workspace))]


def _base_summary(entry: "Entry") -> dict[str, Any]:
    fields = ("id", "name", "version", "task", "licence", "parameters", "context", "created")
    return {"kind": "base", **{name: getattr(entry, name) for name in fields}, "about": entry.description}


def _base_shown(entry: "Entry") -> dict[str, Any]:
    shown = _base_summary(entry) | entry.to_dict() | {"model_defaults": entry.model_defaults}
    return {name: value for name, value in shown.items() if name != "description"}  # it is `about`


def _tuned_summary(row: ModelRow) -> dict[str, Any]:
    created = datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds")
    about = f"tuned by job {row.job}" if row.job else "registered by hand"
    shown = {"kind": "tuned", "task": "chat-completion", **asdict(row), "created": created, "about": about}
    shown["id"] = f"azureml:{row.name}:{row.version}"
    fields = ("kind", "id", "name", "version", "task", "created", "job", "digest", "path", "about")
    return {name: shown[name] for name in fields}
