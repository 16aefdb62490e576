"""What all kinds of assets have in common: lists of the newest versions, and the archive.

What is archived leaves the lists, and can be got, used and restored all the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from azure.ai.ml.entities import Asset

from penala.assets import Kind
from penala.azure.failures import not_found
from penala.azure.operations.base import Operations
from penala.workspace.client import Workspace
from penala.workspace.store import EventRow, Store

A = TypeVar("A", bound=Asset)
_WHOLE = "*"  # the version that stands for all of a name


@dataclass(frozen=True, slots=True)
class Archive:
    """The names and versions of one kind that are archived in a workspace."""

    store: Store
    kind: str

    def set(self, name: str, version: str | None, *, archived: bool) -> None:
        """Archive or restore a version, or without one the whole name."""
        entry = EventRow(f"archived {self.kind}", f"{name}:{version or _WHOLE}")
        with self.store.transaction():
            self.store.delete(EventRow, subject=entry.subject, text=entry.text)
            if archived:
                self.store.insert(entry)

    def view(self, list_view_type: object) -> "View":
        """Return what a list of the SDK's ListViewType (ActiveOnly, ArchivedOnly, All) shows."""
        found = self.store.find(EventRow, subject=f"archived {self.kind}")
        return View(str(getattr(list_view_type, "value", list_view_type)), frozenset(row.text for row in found))


@dataclass(frozen=True, slots=True)
class View:
    """One of the SDK's three views of a list."""

    type: str
    archived: frozenset[str]

    def shows(self, name: str | None, version: str | None = None) -> bool:
        """Tell whether a version belongs to it."""
        hidden = not self.archived.isdisjoint({f"{name}:{_WHOLE}", f"{name}:{version}"})
        return self.type == "All" or hidden == (self.type == "ArchivedOnly")


class AssetOperations(Operations, Generic[A]):
    """The operations that do not differ between kinds of assets."""

    _kind: ClassVar[Kind]

    def get(self, name: str, version: str | None = None, label: str | None = None) -> A:
        """Return a version. Raises ResourceNotFoundError."""
        raise NotImplementedError

    def archive(self, name: str, version: str | None = None, label: str | None = None, **_: object) -> None:
        """Take a version, or the whole name, out of the lists."""
        self._set_archived(name, version, label, archived=True)

    def restore(self, name: str, version: str | None = None, label: str | None = None, **_: object) -> None:
        """Bring back what was archived."""
        self._set_archived(name, version, label, archived=False)

    def _set_archived(self, name: str, version: str | None, label: str | None, *, archived: bool) -> None:
        self._place.require_workspace("archive")
        if version is not None or label is not None:
            version = self.get(name, version, label).version
        with self._place.opened() as workspace:
            if not any(True for _ in self._versions(workspace, name)):
                raise not_found(f"nothing of the {self._kind} is called {name!r}")
            Archive(workspace.store, self._kind).set(name, version, archived=archived)

    def _versions(self, workspace: Workspace, name: str | None) -> Iterable[A]:
        """Return the versions of a name, or of all, newest first."""
        raise NotImplementedError

    def _listed(self, name: str | None, list_view_type: object) -> Iterator[A]:
        """Return the versions of a name; without one, the newest of each name."""
        with self._place.opened() as workspace:
            view = Archive(workspace.store, self._kind).view(list_view_type)
            found = [one for one in self._versions(workspace, name) if view.shows(one.name, one.version)]
        if name is not None:
            return iter(found)
        newest: dict[str | None, A] = {}
        for one in found:
            newest.setdefault(one.name, one)
        for one in newest.values():
            one.latest_version = one.version
        return iter(newest.values())
