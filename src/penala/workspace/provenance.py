"""Where a model version comes from: drawn as a tree down to the user's files."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from penala.workspace.store import LineageRow, ModelRow, Store

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry
    from penala.workspace.client import Workspace


def lineage(workspace: "Workspace", reference: str) -> str:
    """Draw what NAME:VERSION was made from: its job, and each step's inputs down to the user's files."""
    found = workspace.models.find(reference)
    if not isinstance(found, ModelRow):
        return "\n".join([f"{found.reference}  base model, {found.licence or 'licence unknown'}", *_sources(found)])
    lines = [f"{found.name}:{found.version}  {_short(found.digest)}"]
    if found.job:
        lines.append(f"  job {found.job}")
    lines += _drawn(workspace.store, found.digest, "  ", _file_names(workspace.store), set())
    return "\n".join(lines)


def _drawn(store: Store, child: str, indent: str, names: Mapping[str, str], seen: set[str]) -> Iterator[str]:
    parents = dict.fromkeys((row.relation, row.parent) for row in store.find(LineageRow, order="rowid", child=child))
    for relation, parent in parents:
        drawn = parent in seen and store.get(LineageRow, child=parent) is not None
        label = names.get(parent) or ("(above)" if drawn else "")
        yield f"{indent}{relation}  {_short(parent)}  {label}".rstrip()
        if parent not in seen:
            seen.add(parent)
            yield from _drawn(store, parent, indent + "  ", names, seen)


def _file_names(store: Store) -> dict[str, str]:
    """Return digest -> path of every file of the user's that a job's plan took."""
    found = {}
    for (spec,) in store.sql("select spec from jobs order by created"):
        for step in json.loads(spec).get("plan", {}).get("steps", []):
            found.update({v["digest"]: v["path"] for v in step["inputs"].values() if "path" in v and "digest" in v})
    return found


def _sources(entry: "Entry") -> Iterator[str]:
    for source in entry.to_dict()["sources"]:
        yield "  " + "  ".join(str(value) for value in source.values())


def _short(digest: str) -> str:
    return digest[:12]
