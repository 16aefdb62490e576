"""The workspace as Python and the command line see it: one folder, with its jobs, models and endpoints."""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penala
from penala.errors import WorkspaceError
from penala.workspace import shim
from penala.workspace.store import Store, explain
from penala.workspace.supervisor import ensure_if_needed

if TYPE_CHECKING:
    from penala.workspace.component_store import ComponentStore
    from penala.workspace.compute import Computes
    from penala.workspace.data_assets import DataAssets
    from penala.workspace.endpoints import Endpoints
    from penala.workspace.jobs import Jobs
    from penala.workspace.models import Models

FOLDER_NAME = ".penala"
VARIABLE = "PENALA_WORKSPACE"
COUNTED = ("jobs", "models", "endpoints")


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
        folder = locate(path)
        database = folder / "penala.db"
        if not create and not database.exists():
            raise WorkspaceError("there is no workspace", where=str(folder), fix="`penala run RECIPE` makes one")
        try:
            if create:
                _make(folder, new=not database.exists())
            opened = cls(folder, Store(database, create=create))
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

    def run(self, recipe: Any, **options: Any) -> Any:
        """Run a recipe; see `penala.workspace.run.run`."""
        from penala.workspace.run import run

        return run(self, recipe, **options)

    def status(self) -> dict[str, Any]:
        """Return where the workspace lies, what it holds, and the bytes of each of its folders."""
        counted = {name: self.store.sql(f"select count(*) from {name}")[0][0] for name in COUNTED}
        sizes = {path.name: _bytes(path) for path in sorted(self.folder.iterdir())}
        return {"folder": str(self.folder), **counted, "bytes": sizes}

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


def _bytes(path: Path) -> int:
    """Return the bytes of a file or of all files of a folder; a file with several names counts once."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum({(status.st_dev, status.st_ino): status.st_size for status in map(os.stat, files)}.values())


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
