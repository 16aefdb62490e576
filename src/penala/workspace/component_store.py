"""The components of a workspace: those that penala ships, and the user's, each version kept as it was added.

A user's version lies in components/NAME/VERSION: component.yaml, and beside it all that it names by a relative path
(code folders, the YAML of a pipeline's commands), so that it outlives the files that it came from.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from penala import assets
from penala.errors import UsageError
from penala.workspace.artifacts import digest_of, file_names, sync_files
from penala.workspace.snapshots import code_files, copy_files
from penala.workspace.store import ComponentRow, explain

if TYPE_CHECKING:
    from penala.workspace.client import Workspace

FILE = "component.yaml"
KINDS = ("command", "pipeline")
_DEFAULT = re.compile(r"(@|/labels/)default$")


class ComponentStore:
    """The components that jobs of one workspace may name."""

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._store = workspace.store

    def add(self, file: str | Path, version: str | None = None) -> ComponentRow:
        """Add the component in a YAML file and return its row.

        Its version is `version`, else the file's own, else the next whole number; the same content again gives the
        version that it has. Raises UsageError for a file that is no component, that names something which is not there,
        or whose version has other content.
        """
        from penala.workspace.components import Reader, kind_of
        from penala.workspace.places import Place, Problems

        source, problems = Path(os.path.expanduser(file)).absolute(), Problems()
        component = Reader(problems, self.get).file(source, Place(str(source), source.parent))
        problems.raise_all()  # what cannot be run is refused before anything is kept
        assert component is not None
        document = _load(source)
        name = document["name"]
        if version is None and document.get("version") is not None:
            version = str(document["version"])
        assets.require_name(name, version)
        try:
            with tempfile.TemporaryDirectory(prefix=".adding-", dir=self._home()) as work:
                copy = Path(work) / "copy"
                document.pop("version", None)  # the content is what the component does
                _keep(document, source.parent, copy, self._workspace.folder)
                return self._insert(copy, document, kind_of(component), version)
        except OSError as error:
            raise explain(error, source) from None

    def _insert(self, copy: Path, document: dict[str, Any], kind: str, version: str | None) -> ComponentRow:
        name, digest = document["name"], digest_of(copy)
        with self._store.transaction():
            known = self._store.find(ComponentRow, order="created, rowid", name=name)
            for row in known:
                if row.digest == digest and version in (None, row.version):
                    return row
            version = version or assets.next_version([row.version for row in known])
            if version in {row.version for row in known}:
                fix = "give it another version, or leave it out for the next number"
                raise UsageError("is there already, with other content", where=f"{name}:{version}", fix=fix)
            home = self._home(name) / version
            _write(document | {"version": version}, copy / FILE)
            sync_files(copy / one for one in file_names(copy))
            if home.exists():  # left by a process that was killed before its row was written
                shutil.rmtree(home)
            copy.rename(home)
            about: dict[str, Any] = {key: document[key] for key in ("display_name", "description") if key in document}
            path = str((home / FILE).relative_to(self._workspace.folder))
            row = ComponentRow(name, version, kind, path, digest, about)
            self._store.insert(row)
        return row

    def get(self, name: str, version: str = assets.LATEST) -> Path:
        """Return the YAML of a version, or of the one added last; a user's goes before one that penala ships.

        `name` may be all that names a component: azureml:NAME:V, azureml://registries/R/components/NAME/labels/latest.
        The label `default`, which Azure ML gives to components, is the newest too. A shipped one stands in for every
        version that a registry has. Raises NotFound with the near name or the
        known versions.
        """
        wanted = assets.parse(_DEFAULT.sub(rf"\1{assets.LATEST}", name), "components")
        if version != assets.LATEST:
            wanted = assets.AssetName(wanted.name, version, wanted.registry)
        known = self._store.find(ComponentRow, order="created, rowid", name=wanted.name)
        for row in reversed(known):
            if wanted.version in (assets.LATEST, row.version):
                return self._workspace.folder / row.path
        shipped = _shipped().get(wanted.name)
        if shipped is not None and (wanted.registry or wanted.version in (assets.LATEST, str(shipped["version"]))):
            return Path(shipped["path"])
        versions = [*([str(shipped["version"])] if shipped else []), *(row.version for row in known)]
        names = {*_shipped(), *(row.name for row in self._store.find(ComponentRow))}
        raise assets.missing("component", wanted, names, versions, shown_by="penala components list")

    def list(self) -> list[dict[str, Any]]:
        """Return every version: the shipped ones, then the user's by name, oldest first."""
        rows = self._store.find(ComponentRow, order="name, created, rowid")
        mine = [
            {
                "name": row.name,
                "version": row.version,
                "type": row.kind,
                "shipped": False,
                "digest": row.digest,
                "created": row.created,
                "path": str(self._workspace.folder / row.path),
                "about": (row.about or {}).get("description") or (row.about or {}).get("display_name", ""),
            }
            for row in rows
        ]
        return [*_shipped().values(), *mine]

    def show(self, name: str) -> dict[str, Any]:
        """Return a version's summary with all that its YAML says. Raises NotFound."""
        file = self.get(name)
        return _shown(next(one for one in self.list() if one["path"] == str(file)))

    def _home(self, name: str = "") -> Path:
        home = self._workspace.folder / "components" / name
        home.mkdir(parents=True, exist_ok=True)
        return home


def list_components(path: str | Path | None) -> list[dict[str, Any]]:
    """Return what `ComponentStore.list` does for the workspace at `path`; where there is none, the shipped ones."""
    from penala.workspace.models import existing

    with existing(path) as workspace:
        return workspace.components.list() if workspace else list(_shipped().values())


def show_component(path: str | Path | None, name: str) -> dict[str, Any]:
    """Return what `ComponentStore.show` does for the workspace at `path`; where there is none, of a shipped one."""
    from penala.workspace.models import existing

    with existing(path) as workspace:
        if workspace is not None:
            return workspace.components.show(name)
    wanted, shipped = assets.parse(name, "components"), _shipped()
    if wanted.name not in shipped:
        raise assets.missing("component", wanted, set(shipped), [], shown_by="penala components list")
    return _shown(shipped[wanted.name])


def _shown(summary: dict[str, Any]) -> dict[str, Any]:
    return summary | {"component": _load(Path(summary["path"]))}


def _shipped() -> dict[str, dict[str, Any]]:
    """Return a summary of every component that penala ships, by name."""
    from penala.inputs import component_spec
    from penala.workspace.components import SHIPPED

    found = {}
    for file in sorted(SHIPPED.glob("*.yaml")):
        spec = component_spec(file.stem)
        found[file.stem] = {
            "name": spec["name"],
            "version": str(spec["version"]),
            "type": spec["type"],
            "shipped": True,
            "digest": None,
            "created": None,
            "path": str(file),
            "about": spec.get("description", ""),
        }
    return found


def _keep(document: dict[str, Any], folder: Path, out: Path, workspace: Path) -> None:
    """Write a component into the new folder `out`, with all that it names by a path relative to `folder`.

    The document's own paths become those of the copies.
    """
    out.mkdir(parents=True)
    document.update(_moved(document, folder, out, workspace))
    _write(document, out / FILE)


def _moved(value: Any, folder: Path, out: Path, workspace: Path) -> Any:
    if isinstance(value, list):
        return [_moved(one, folder, out, workspace) for one in value]
    if not isinstance(value, Mapping):
        return value
    moved: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "additional_includes" and isinstance(inner, list):
            moved[key] = [_copied("includes", folder / path, out, workspace) for path in inner]
        elif isinstance(inner, str) and key in ("code", "conda_file", "component") and _is_path(inner):
            moved[key] = _copied(key, folder / inner.removeprefix("file:"), out, workspace)
        else:
            moved[key] = _moved(inner, folder, out, workspace)
    return moved


def _is_path(text: str) -> bool:
    return not text.startswith(("azureml:", "http:", "https:", "git+"))


def _copied(key: str, source: Path, out: Path, workspace: Path) -> str:
    """Copy what `key` names into `out`, under a folder of its own, and return its path there.

    Of a folder, that is what a job's snapshot of it would hold.
    """
    if not source.exists():
        raise UsageError("is not there", where=f"{key}: {source}", fix="check the path")
    number = len(list(out.glob(f"{key}-*"))) + 1
    home = out / f"{key}-{number}"
    if key == "component":
        _keep(_load(source), source.parent, home, workspace)
        return f"./{home.name}/{FILE}"
    target = home / source.resolve().name
    home.mkdir()
    if source.is_dir():
        copy_files(dict(code_files(source, workspace)), target)
    else:
        shutil.copyfile(source, target)
    return f"./{home.name}/{target.name}"


def _load(file: Path) -> dict[str, Any]:
    from penala.workspace.places import load_yaml

    loaded = load_yaml(file)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("name"), str):
        raise UsageError("is no component: it has no name", where=str(file), fix="write Azure ML's component YAML")
    return loaded


def _write(document: Mapping[str, Any], file: Path) -> None:
    file.write_text(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True), encoding="utf-8")
