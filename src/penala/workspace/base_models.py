"""Base models as a workspace knows them: the shipped catalogue, entries of the user's own, and tuned versions.

An entry of the user's names files where they lie; what they hold is remembered, and looked at again before each use.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penala
from penala import assets
from penala.errors import ModelError, UsageError
from penala.workspace.artifacts import digest
from penala.workspace.store import CatalogueRow, ModelRow, explain

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry
    from penala.workspace.client import Workspace

Report = Callable[[dict[str, Any]], None]

IMPORTED = ("name", "version", "created", "registry", "task", "licence", "finetune_config")  # what an import needs


def entries(workspace: "Workspace | None") -> "list[Entry]":
    """Return the user's entries."""
    from penala.basemodel.catalogue import entry_from

    rows = workspace.store.find(CatalogueRow, order="created, rowid") if workspace else []
    return [entry_from(row.record, where=f"base model {row.name}:{row.version}") for row in rows]


def resolve(workspace: "Workspace | None", text: str, folder: Path | None = None) -> "Entry":
    """Return the entry that `text` means; relative paths start at `folder`.

    It is what a recipe's base_model takes, or the name of a tuned version, unless a base model has that name. Raises
    NotFound, UsageError or ModelError, the last also for files that are gone or have changed since they were added.
    """
    from penala.basemodel import catalogue

    mine = entries(workspace)
    named = {entry.name for entry in (*catalogue.shipped(), *mine)}
    tuned = _tuned(workspace, named) if workspace else []
    entry = catalogue.resolve(text, folder=folder, extra=[*mine, *tuned])
    if workspace is not None and entry.digest is not None:
        _require_unchanged(workspace, entry)
    return entry


def _tuned(workspace: "Workspace", named: set[str]) -> "list[Entry]":
    """Return the tuned versions as entries, but for those whose name is a base model's."""
    from penala.basemodel.catalogue import Entry, MlflowSource

    return [
        Entry(
            name=row.name,
            version=row.version,
            created=_time(row.created),
            sources=(MlflowSource(str(workspace.folder / row.path)),),
            tags=row.tags,
        )
        for row in workspace.store.find(ModelRow, order="created")
        if row.name not in named
    ]


def inputs(entry: "Entry") -> dict[str, str]:
    """Return the inputs of the pipeline that stand for `entry`."""
    from penala.basemodel.catalogue import FolderSource, GgufSource, HubSource, MlflowSource, shipped

    if entry in shipped():
        return {"catalogue_model": entry.reference}
    source, found = entry.sources[0], {}
    fields = {name: value for name, value in entry.to_dict().items() if name in IMPORTED and value}
    match source:
        case HubSource() if not entry.created:
            return {"huggingface_id": source.repo}
        case HubSource():
            fields["sources"] = entry.to_dict()["sources"]
        case MlflowSource():
            found["mlflow_model_path"] = source.path
        case FolderSource() | GgufSource():
            found["pytorch_model_path"] = source.path
    if entry.created:  # it is known by a name, which the imported model carries on
        found["catalogue_model"] = json.dumps(fields, sort_keys=True)
    return found


def add(
    workspace: "Workspace",
    name: str,
    source: str,
    version: str | None = None,
    *,
    registry: str = "azureml",
    task: str | None = None,
    tags: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    system_metadata: Mapping[str, Any] | None = None,
    finetune_config: Mapping[str, Any] | None = None,
    report: Report = lambda event: None,
) -> "Entry":
    """Add a base model to the workspace's catalogue and return its entry; without `version`, as the next whole number.

    `source` is a folder, an MLflow folder, a .gguf file or a hub id. Tags and properties are kept as text; what is no
    text becomes the text of its Python literal, as Azure's SDK makes it. The same again gives the version that it has.
    Raises UsageError for a name, a version or a registry that cannot be one, and for a version that is there already;
    ModelError for files that are no model.
    """
    from penala.basemodel import catalogue

    assets.require_name(name, version)
    assets.require_name(registry)
    source = source if _is_hub_id(source) else str(Path(os.path.expanduser(source)).absolute())
    found = catalogue.resolve(source)
    record = {
        **found.to_dict(),
        **_facts(workspace, found, report),
        "name": name,
        "registry": registry,
        "task": task or str((tags or {}).get("task") or "chat-completion"),
        "licence": str((tags or {}).get("license") or "") or None,
        "tags": tags or {},
        "properties": properties or {},
        "system_metadata": system_metadata or {},
        "finetune_config": finetune_config or {},
        "description": str((tags or {}).get("summary") or f"added from {source}"),
    }
    entry = catalogue.entry_from(record, where=name)
    _ = entry.model_defaults  # a tag that cannot be read is refused now
    return _insert(workspace, entry, version)


def _insert(workspace: "Workspace", entry: "Entry", version: str | None) -> "Entry":
    from msgspec.structs import replace

    from penala.basemodel import catalogue

    if workspace.store.get(ModelRow, name=entry.name) is not None:
        raise UsageError("is the name of a tuned model", where=entry.name, fix="choose another name")
    with workspace.store.transaction():
        known = [one for one in (*catalogue.shipped(), *entries(workspace)) if one.name == entry.name]
        wanted = replace(entry, version="", created="")
        same = [
            one for one in known if replace(one, version="", created="") == wanted and version in (None, one.version)
        ]
        if same:
            return same[0]
        version = version or assets.next_version([one.version for one in known])
        if version in {one.version for one in known}:
            fix = "choose another version, or leave it out for the next number"
            raise UsageError("is there already, with other content", where=f"{entry.name}:{version}", fix=fix)
        entry = replace(entry, version=version, created=_time(None))
        workspace.store.insert(CatalogueRow(entry.name, version, entry.registry, entry.to_dict()))
    return entry


def _is_hub_id(source: str) -> bool:
    from penala.basemodel.catalogue import HUB_ID

    return HUB_ID.match(source) is not None and not Path(os.path.expanduser(source)).exists()


def _facts(workspace: "Workspace", entry: "Entry", report: Report) -> dict[str, Any]:
    """Return what the files of an entry tell: size, context, architecture, and the digest of all of them."""
    from penala.basemodel.catalogue import FolderSource, GgufSource, HubSource, MlflowSource
    from penala.basemodel.folder import count_parameters, read_json
    from penala.basemodel.gguf_metadata import read_chat_metadata
    from penala.basemodel.sources import obtain

    match entry.sources[0]:
        case HubSource():
            return {}
        case GgufSource(path):
            metadata = read_chat_metadata(Path(path))
            kind = metadata.get("general.architecture")
            facts = {"model_type": kind, "context": metadata.get(f"{kind}.context_length")}
        case FolderSource() | MlflowSource():
            folder = obtain(entry, workspace.cache, report)
            config = read_json(folder / "config.json")
            facts = {
                "model_type": config.get("model_type"),
                "context": config.get("max_position_embeddings"),
                "parameters": count_parameters(folder),
            }
        case source:
            raise AssertionError(f"no file of a user's: {source}")
    return facts | {"digest": content_digest(workspace, entry)}


def content_digest(workspace: "Workspace", entry: "Entry") -> str:
    """Return the digest of the user's files that `entry` names. Raises ModelError for those that are gone."""
    from penala.basemodel.catalogue import FolderSource, GgufSource, MlflowSource
    from penala.basemodel.folder import model_files
    from penala.basemodel.mlflow_layout import mlflow_files

    digests = workspace.jobs.digests
    source = entry.sources[0]
    assert isinstance(source, FolderSource | GgufSource | MlflowSource)
    path = Path(source.path)
    if not path.exists():
        fix = f"put it back, or `penala models add {entry.name} --from` its new place, as a new version"
        raise ModelError("its files are gone", where=f"{entry.reference}: {path}", fix=fix)
    if isinstance(source, GgufSource):
        return digests(path)
    is_folder = isinstance(source, FolderSource)
    files = {name: path / name for name in model_files(path)} if is_folder else mlflow_files(path)
    return digest(["model-files/1", sorted((name, digests(file)) for name, file in files.items())])


def _require_unchanged(workspace: "Workspace", entry: "Entry") -> None:
    if content_digest(workspace, entry) != entry.digest:
        where = f"{entry.reference}: {entry.to_dict()['sources'][0]['path']}"
        fix = f"`penala models add {entry.name} --from` the same place makes a new version of it"
        raise ModelError("has changed since it was added", where=where, fix=fix)


def package(workspace: "Workspace", entry: "Entry", report: Report) -> Path:
    """Return the MLflow folder of a base model, made in the workspace's cache once; weights that lie there are linked.

    Raises ModelError when the model cannot be had.
    """
    from penala.basemodel.catalogue import FolderSource
    from penala.basemodel.importing import import_model
    from penala.basemodel.sources import obtain
    from penala.package.write import write_package

    folder = obtain(entry, workspace.cache, report)
    # what was fetched lies under a name that stands for its content
    content = content_digest(workspace, entry) if isinstance(entry.sources[0], FolderSource) else folder.name
    key = digest(["base-package/1", penala.__version__, content, entry.to_dict()])
    home = workspace.cache / "packages" / f"{entry.name}-{key[:16]}"
    if home.is_dir():
        return home
    try:
        home.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{home.name}.partial-", dir=home.parent) as work:
            imported, made = Path(work) / "imported", Path(work) / "package"
            import_model(entry, imported, workspace.cache, report)
            write_package(imported, made, base=imported, report=report)
            made.rename(home)
    except OSError as error:
        if not home.is_dir():  # else another process was faster
            raise explain(error, home) from None
    return home


def _time(seconds: float | None) -> str:
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds")
