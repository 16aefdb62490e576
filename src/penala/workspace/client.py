"""The workspace as Python and the command line see it: one folder, with its jobs, models and endpoints."""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penala
from penala.errors import WorkspaceError
from penala.workspace import shim
from penala.workspace.store import EventRow, Store, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from penala.recipe import Recipe
    from penala.workspace.component_store import ComponentStore
    from penala.workspace.compute import Computes
    from penala.workspace.data_assets import DataAssets
    from penala.workspace.endpoints import Endpoints
    from penala.workspace.events import Event
    from penala.workspace.jobs import Jobs
    from penala.workspace.models import Models

FOLDER_NAME = ".penala"
VARIABLE = "PENALA_WORKSPACE"


class Workspace:
    """An open workspace. `open` finds or makes one; each thread opens its own."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store

    @classmethod
    def open(cls, path: str | Path | None = None, *, create: bool = False) -> "Workspace":
        """Open the workspace at `path`, else $PENALA_WORKSPACE, else the nearest .penala upwards, else ./.penala.

        Only with `create` is a missing one made. What keeps its endpoints up is started where it was killed. Raises
        WorkspaceError when there is none, or none can be made or used.
        """
        folder = locate(path) if create else require(path)
        database = folder / "penala.db"
        try:
            if create:
                _make(folder, new=not database.exists())
            opened = cls(folder, Store(database, create=create))
            if create:
                _note_environment(opened.store)
            if (folder / "endpoints").exists():
                from penala.workspace.supervisor import ensure_if_needed

                ensure_if_needed(folder)
            return opened
        except OSError as error:
            raise explain(error, folder) from None

    @cached_property
    def jobs(self) -> "Jobs":
        """The pipeline jobs."""
        from penala.workspace.jobs import Jobs

        return Jobs(self)

    @cached_property
    def models(self) -> "Models":
        """The registered model versions."""
        from penala.workspace.models import Models

        return Models(self)

    @cached_property
    def endpoints(self) -> "Endpoints":
        """The endpoints and their deployments."""
        from penala.workspace.endpoints import Endpoints

        return Endpoints(self)

    @cached_property
    def computes(self) -> "Computes":
        """This machine, and the computes that stand in for sizes of a cloud."""
        from penala.workspace.compute import Computes

        return Computes(self)

    @cached_property
    def data(self) -> "DataAssets":
        """The data assets."""
        from penala.workspace.data_assets import DataAssets

        return DataAssets(self)

    @cached_property
    def components(self) -> "ComponentStore":
        """The components that jobs may name, penala's own and the user's."""
        from penala.workspace.component_store import ComponentStore

        return ComponentStore(self)

    def run(
        self,
        recipe: "Recipe",
        *,
        force_rerun: bool = False,
        deploy: bool = True,
        on_event: "Callable[[Event], None] | None" = None,
    ) -> dict[str, Any]:
        """Run a recipe to its end and return its result; see `penala.workspace.run.run`."""
        from penala.workspace.run import run

        return run(self, recipe, force_rerun=force_rerun, deploy=deploy, on_event=on_event)

    def status(self) -> dict[str, Any]:
        """Return what the workspace holds, what its disk is used for, and what can go."""
        from penala.workspace.upkeep import status

        return status(self.store, self.folder)

    def collect(self, *, older_than_days: float | None = None, dry_run: bool = False) -> dict[str, Any]:
        """Remove what nothing needs; see `penala.workspace.upkeep.collect`."""
        from penala.workspace.upkeep import collect

        return collect(self.store, self.folder, older_than_days=older_than_days, dry_run=dry_run)

    @property
    def artifacts(self) -> Path:
        """Where outputs lie under their digests."""
        return self.folder / "artifacts"

    @property
    def cache(self) -> Path:
        """Where base models lie that were fetched or converted once."""
        return self.folder / "cache"

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def locate(path: str | Path | None = None) -> Path:
    """Return the folder that `Workspace.open` would use, whether it exists or not, without symbolic links."""
    named = path or os.environ.get(VARIABLE)
    if named:
        return Path(os.path.expanduser(named)).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER_NAME).is_dir():
            return (folder / FOLDER_NAME).resolve()
    return (here / FOLDER_NAME).resolve()


def require(path: str | Path | None = None) -> Path:
    """Return the folder that `locate` finds; raise WorkspaceError when no workspace is there."""
    folder = locate(path)
    if not (folder / "penala.db").exists():
        raise WorkspaceError("there is no workspace", where=str(folder), fix="`penala run RECIPE` makes one")
    return folder


def _make(folder: Path, *, new: bool) -> None:
    if new:
        from penala.workspace.filesystem import problem

        if (refusal := problem(folder)) is not None:
            raise refusal
    for name in ("artifacts", "cache", "jobs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    if not config.exists():
        name = folder.parent.name if folder.name == FOLDER_NAME else folder.name
        shim.write_json(config, {"workspace_name": name or "penala", "penala": penala.__version__})


def _note_environment(store: Store) -> None:
    """Record since when jobs are made with this Python, for `penala workspace doctor`."""
    from penala.workspace.artifacts import ENVIRONMENT, environment_id

    last = store.find(EventRow, subject=ENVIRONMENT, order="at desc", limit=1)
    if not last or last[0].text != environment_id():
        store.insert(EventRow(ENVIRONMENT, environment_id()))
