"""The workspace as Python and the command line see it: one folder, with its jobs, models and endpoints."""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penala
from penala.errors import WorkspaceError
from penala.workspace import shim
from penala.workspace.store import Store, explain

if TYPE_CHECKING:
    from penala.workspace.endpoints import Endpoints
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

        Only with `create` is a missing one made. Raises WorkspaceError when there is none, or none can be made or used.
        """
        folder = locate(path)
        database = folder / "penala.db"
        if not create and not database.exists():
            raise WorkspaceError("there is no workspace", where=str(folder), fix="`penala run RECIPE` makes one")
        try:
            if create:
                _make(folder)
            return cls(folder, Store(database, create=create))
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

    def run(self, recipe: Any, **options: Any) -> Any:
        """Run a recipe; see `penala.workspace.run.run`."""
        from penala.workspace.run import run

        return run(self, recipe, **options)

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
        return Path(named).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER_NAME).is_dir():
            return (folder / FOLDER_NAME).resolve()
    return (here / FOLDER_NAME).resolve()


def _make(folder: Path) -> None:
    for name in ("artifacts", "cache", "jobs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    if not config.exists():
        name = folder.parent.name if folder.name == FOLDER_NAME else folder.name
        shim.write_json(config, {"workspace_name": name or "penala", "penala": penala.__version__})
