"""`client.environments`: remembered for the jobs that name them; every job runs in this workspace's Python."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from azure.ai.ml import load_environment
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import Environment

from penala import assets
from penala.azure.failures import expect, not_found, refusal, sdk_exceptions
from penala.azure.operations.archive import AssetOperations
from penala.workspace.client import Workspace


class EnvironmentOperations(AssetOperations[Environment]):
    """The environments that a workspace was told of, in environments/NAME/VERSION.yaml."""

    _kind: ClassVar[assets.Kind] = "environments"

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Environment:
        """Return a version. Raises ResourceNotFoundError."""
        with sdk_exceptions():
            wanted = assets.parse(self._place.asset_id("environments", name, version, label), "environments")
        files = self._files(wanted.name)
        found = [file for file in files if wanted.version in (assets.LATEST, file.stem)]
        if not found:
            versions = ", ".join(file.stem for file in files)
            none = "a job may name it all the same: this Python stands in for every environment"
            raise not_found(f"no environment {wanted}; " + (f"there is {versions}" if versions else none))
        return load_environment(found[-1])

    def list(
        self, name: str | None = None, *, list_view_type: ListViewType = ListViewType.ACTIVE_ONLY, **_: Any
    ) -> Iterator[Environment]:
        """Return the versions of a name, newest first; without one, the newest of each name."""
        return self._listed(name, list_view_type)

    def create_or_update(self, environment: Environment) -> Environment:
        """Remember an environment and return it; nothing is built."""
        self._place.require_workspace("environments of your own")
        expect(environment, Environment, "environment")
        if not environment.name:
            raise refusal("an environment needs a name")
        name = environment.name
        version = str(environment.version or assets.next_version([file.stem for file in self._files(name)]))
        with sdk_exceptions():
            assets.require_name(name, version)
        environment.version = version
        file = self._home / name / f"{version}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # the SDK writes over no file
        environment.dump(file)
        return self.get(name, version)

    def _versions(self, workspace: Workspace, name: str | None) -> Iterable[Environment]:
        names = [name] if name else sorted(folder.name for folder in self._home.glob("*"))
        return [load_environment(file) for one in names for file in reversed(self._files(one))]

    @property
    def _home(self) -> Path:
        return self._place.folder / "environments"

    def _files(self, name: str) -> Sequence[Path]:
        """Return the files of a name's versions, oldest first."""
        return sorted((self._home / name).glob("*.yaml"), key=lambda file: file.stat().st_mtime_ns)
