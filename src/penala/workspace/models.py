"""Model versions: base models of the catalogue, and tuned ones that jobs registered, with where they come from.

The store owns name and version; MLflow's registry mirrors it. A tuned version points at its package in artifacts/.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import NotFound, UsageError, WorkspaceError, near
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
    if not (store.path.parent / path).is_dir():
        raise WorkspaceError(f"there is no artifact {digest}", where=f"{name}:{version or 'next'}")
    with store.transaction():
        known = store.find(ModelRow, name=name)
        same = [row for row in known if row.digest == digest and version in (None, row.version)]
        if same:
            return same[-1]
        if version is None:
            numbers = [int(row.version) for row in known if row.version.isascii() and row.version.isdigit()]
            version = str(max(numbers, default=0) + 1)
        elif any(row.version == version for row in known):
            fix = "choose another version, or leave it out for the next number"
            raise WorkspaceError("is registered already, with other content", where=f"{name}:{version}", fix=fix)
        row = ModelRow(name, version, digest, path, job, dict(tags or {}), dict(properties or {}))
        store.insert(row)
        store.insert(LineageRow(f"{name}:{version}", "registered", digest, job or ""), replace=True)
    return row


def list_models(path: str | Path | None, task: str | None = None) -> list[dict[str, Any]]:
    """Return what `Models.list` does for the workspace at `path`; where there is none, the base models."""
    with _opened(path) as workspace:
        return workspace.models.list(task) if workspace else _base_summaries(task)


def show_model(path: str | Path | None, reference: str) -> dict[str, Any]:
    """Return what `Models.show` does for the workspace at `path`; where there is none, a base model can be shown."""
    from penala.basemodel import catalogue

    with _opened(path) as workspace:
        return workspace.models.show(reference) if workspace else _base_shown(catalogue.get(reference))


def fetch_base(workspace: "Workspace", model: str, report: Report) -> Path:
    """Bring a base model into the workspace's cache, ready to be used, and return its folder."""
    from penala.basemodel.sources import obtain

    try:
        return obtain(model, workspace.cache, report)
    except OSError as error:
        raise explain(error, workspace.cache) from None


@contextlib.contextmanager
def _opened(path: str | Path | None) -> "Iterator[Workspace | None]":
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

    def list(self, task: str | None = None) -> "list[dict[str, Any]]":
        """Return a summary of every version: base models by name, then tuned ones, oldest first."""
        tuned = [_tuned_summary(row) for row in self._store.find(ModelRow, order="name, created")]
        return [*_base_summaries(task), *(model for model in tuned if task in (None, model["task"]))]

    def show(self, reference: str) -> dict[str, Any]:
        """Return all that is known of NAME:VERSION, or of NAME's newest version. Raises NotFound."""
        found = self._find(reference)
        if isinstance(found, ModelRow):
            from penala.package.read import read_package

            package = read_package(self._folder(found))
            metadata = {"metadata": dict(package.metadata), "folder": str(package.folder)}
            return _tuned_summary(found) | {"tags": found.tags, "properties": found.properties} | metadata
        return _base_shown(found)

    def download(self, reference: str, to: Path, report: Report = lambda event: None) -> Path:
        """Copy the MLflow folder of a version to `to`, which must be new or empty; return it.

        A base model is fetched first where it is not cached. Raises NotFound, UsageError for a folder that holds
        something, ModelError for weights that cannot be had.
        """
        found = self._find(reference)
        to = to.expanduser().absolute()
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError("is not empty", where=str(to), fix="name a new folder")
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as work:
                copy = Path(work) / "copy"
                if isinstance(found, ModelRow):
                    _copy(self._folder(found), copy)
                else:
                    self._package_base(found, copy, report)
                copy.rename(to)
        except OSError as error:
            raise explain(error, to) from None
        return to

    def lineage(self, reference: str) -> str:
        """Draw what NAME:VERSION was made from: its job, and each step's inputs down to the user's files."""
        found = self._find(reference)
        if not isinstance(found, ModelRow):
            return "\n".join([f"{found.reference}  base model, {found.licence or 'licence unknown'}", *_sources(found)])
        lines = [f"{found.name}:{found.version}  {_short(found.digest)}"]
        if found.job:
            lines.append(f"  job {found.job}")
        names = self._file_names()
        lines += self._drawn(found.digest, "  ", names, set())
        return "\n".join(lines)

    def _drawn(self, child: str, indent: str, names: Mapping[str, str], seen: set[str]) -> Iterator[str]:
        parents = dict.fromkeys(
            (row.relation, row.parent) for row in self._store.find(LineageRow, order="rowid", child=child)
        )
        for relation, parent in parents:
            drawn = parent in seen and self._store.get(LineageRow, child=parent) is not None
            label = names.get(parent) or ("(above)" if drawn else "")
            yield f"{indent}{relation}  {_short(parent)}  {label}".rstrip()
            if parent not in seen:
                seen.add(parent)
                yield from self._drawn(parent, indent + "  ", names, seen)

    def _file_names(self) -> dict[str, str]:
        """Return digest -> path of every file of the user's that a job's plan took."""
        found = {}
        for (spec,) in self._store.sql("select spec from jobs order by created"):
            for step in json.loads(spec).get("plan", {}).get("steps", []):
                found.update({v["digest"]: v["path"] for v in step["inputs"].values() if "path" in v and "digest" in v})
        return found

    def _find(self, reference: str) -> "ModelRow | Entry":
        from penala.basemodel import catalogue

        name, _, version = reference.partition(":")
        rows = self._store.find(ModelRow, order="created", name=name)
        for row in reversed(rows):
            if version in ("", row.version):
                return row
        if rows:
            known = ", ".join(row.version for row in rows)
            raise NotFound(f"{name} has no version {version!r}", fix=f"its versions: {known}")
        try:
            return catalogue.get(reference)
        except NotFound as error:
            tuned = {row.name for row in self._store.find(ModelRow)}
            raise NotFound(error.what, fix=near(name, tuned) or error.fix) from None

    def _folder(self, row: ModelRow) -> Path:
        return self._workspace.folder / row.path

    def _package_base(self, entry: "Entry", out: Path, report: Report) -> None:
        from penala.basemodel.importing import import_model
        from penala.package.write import write_package

        # packaged inside the workspace, where weights are linked, and copied out: the download is the user's to change
        with tempfile.TemporaryDirectory(prefix="download-", dir=self._workspace.cache) as work:
            imported, package = Path(work) / "imported", Path(work) / "package"
            import_model(entry, imported, self._workspace.cache, report)
            write_package(imported, package, base=imported, report=report)
            _copy(package, out)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _base_summaries(task: str | None) -> list[dict[str, Any]]:
    from penala.basemodel import catalogue

    return [_base_summary(entry) for entry in catalogue.entries(task)]


def _base_summary(entry: "Entry") -> dict[str, Any]:
    fields = ("name", "version", "task", "licence", "parameters", "context", "created")
    return {"kind": "base", **{name: getattr(entry, name) for name in fields}, "about": entry.description}


def _base_shown(entry: "Entry") -> dict[str, Any]:
    return _base_summary(entry) | entry.to_dict() | {"id": entry.id, "model_defaults": entry.model_defaults}


def _tuned_summary(row: ModelRow) -> dict[str, Any]:
    created = datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds")
    about = f"tuned by job {row.job}" if row.job else "registered by hand"
    shown = {"kind": "tuned", "task": "chat-completion", **asdict(row), "created": created, "about": about}
    fields = ("kind", "name", "version", "task", "created", "job", "digest", "path", "about")
    return {name: shown[name] for name in fields}


def _sources(entry: "Entry") -> Iterator[str]:
    for source in entry.to_dict()["sources"]:
        yield "  " + "  ".join(str(value) for value in source.values())


def _short(digest: str) -> str:
    return digest[:12]
