"""The computes of a workspace: this machine, under the name `local`, and created ones that stand in for a cloud size.

A stand-in is checked and counted like its size (GPUs a node, nodes), and runs on this machine.
"""

import os
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import NotFound, UsageError, near
from penala.workspace.store import ComputeRow

if TYPE_CHECKING:
    from penala.workspace.client import Workspace

LOCAL = "local"
TIERS = ("dedicated", "low_priority")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,30}[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a cluster grows and shrinks, with the defaults of Azure's AmlCompute."""

    min_instances: int = 0
    max_instances: int = 4
    idle_seconds: int = 120  # before an idle node is given back
    tier: str = "dedicated"

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that make no cluster."""
        if not 0 <= self.min_instances <= self.max_instances or self.max_instances < 1:
            what = f"min_instances {self.min_instances} and max_instances {self.max_instances} make no cluster"
            raise UsageError(what, fix="use 0 <= min_instances <= max_instances, and 1 or more at most")
        if self.idle_seconds < 0:
            raise UsageError(f"idle_seconds is {self.idle_seconds}", fix="use 0 or more")
        if self.tier not in TIERS:
            raise UsageError(f"tier is {self.tier!r}", fix=f"use {' or '.join(TIERS)}")


@dataclass(frozen=True, slots=True)
class Compute:
    """A compute: `gpus` are those of one node, `slots` the steps that may run side by side here."""

    name: str
    size: str | None  # None: this machine itself
    gpus: int
    slots: int
    state: str = "Succeeded"  # Azure's provisioning state
    settings: Settings = field(default_factory=lambda: Settings(1, 1))

    @property
    def nodes(self) -> int:
        """The most nodes that it may have."""
        return self.settings.max_instances

    def describe(self) -> str:
        """Say what it is, in one line."""
        if self.size is None:
            machine = this_machine()
            return f"this machine: {machine['cores']} cores, {machine['memory_gb']} GB, {machine['gpus']} GPUs"
        from penala.workspace.sizes import find_size

        return f"stands in for {self.size} ({find_size(self.size).describe()}); runs on this machine"

    def to_dict(self) -> dict[str, Any]:
        """Return it as `penala compute show --json` prints it."""
        machine = this_machine() if self.size is None else {}
        shown = {
            "name": self.name,
            "type": "amlcompute" if self.size else LOCAL,
            "size": self.size,
            "provisioning_state": self.state,
            "tier": self.settings.tier,
            "min_instances": self.settings.min_instances,
            "max_instances": self.settings.max_instances,
            "idle_seconds": self.settings.idle_seconds,
            "gpus": self.gpus,
            "slots": self.slots,
            "about": self.describe(),
        }
        return shown | machine


class Computes:
    """The computes of one workspace. Names are the same in any letter case."""

    def __init__(self, workspace: "Workspace") -> None:
        self._store = workspace.store

    def get(self, name: str) -> Compute | None:
        """Return the compute of this name, which may come as azureml:NAME, or None. `local` is always there."""
        wanted = name.removeprefix("azureml:").lower()
        return next((compute for compute in self.list() if compute.name.lower() == wanted), None)

    def show(self, name: str) -> Compute:
        """Return the compute of this name. Raises NotFound with the near one."""
        found = self.get(name)
        if found is None:
            fix = near(name, {compute.name for compute in self.list()}) or "`penala compute list` shows all"
            raise NotFound(f"no compute is called {name!r}", fix=fix)
        return found

    def list(self) -> "list[Compute]":
        """Return all computes: this machine first, then by name."""
        return [local(), *map(_of_row, self._store.find(ComputeRow, order="name"))]

    def create(self, name: str, size: str, settings: Settings | None = None) -> Compute:
        """Create a compute that stands in for `size`, or change the settings of the one that does; return it.

        Raises UsageError for a name that cannot be one, for a size that is not known, and for another size than the
        compute of this name has.
        """
        from penala.workspace.sizes import find_size

        if _NAME.fullmatch(name) is None:
            fix = "use 2 to 32 letters, digits and '-', a letter first and no '-' last"
            raise UsageError("is no name of a compute", where=repr(name), fix=fix)
        if name.lower() == LOCAL:
            raise UsageError(f"{LOCAL} is this machine, and always there", fix="choose another name")
        found = find_size(size)
        settings = settings or Settings()
        with self._store.transaction():
            known = self.get(name)
            if known is not None and known.size != found.name:
                fix = f"choose another name, or `penala compute delete {known.name}` first"
                raise UsageError(f"has the size {known.size} already", where=known.name, fix=fix)
            row = ComputeRow(known.name if known else name, found.name, "Succeeded", asdict(settings))
            self._store.insert(row, replace=True)
        return _of_row(row)

    def delete(self, name: str) -> None:
        """Remove a compute. Raises NotFound, and UsageError for `local`."""
        found = self.show(name)
        if found.size is None:
            raise UsageError(f"{LOCAL} is this machine, and cannot be deleted")
        self._store.delete(ComputeRow, name=found.name)


def list_computes(path: str | Path | None) -> list[dict[str, Any]]:
    """Return every compute of the workspace at `path`; where there is none, this machine."""
    from penala.workspace.models import existing

    with existing(path) as workspace:
        found = workspace.computes.list() if workspace else [local()]
        return [compute.to_dict() for compute in found]


def show_compute(path: str | Path | None, name: str) -> dict[str, Any]:
    """Return a compute of the workspace at `path`; where there is none, there is this machine. Raises NotFound."""
    from penala.workspace.models import existing

    with existing(path) as workspace:
        if workspace is not None:
            return workspace.computes.show(name).to_dict()
    if name.removeprefix("azureml:").lower() != LOCAL:
        raise NotFound(f"no compute is called {name!r}", fix="`penala compute create` makes one")
    return local().to_dict()


def list_sizes() -> list[dict[str, Any]]:
    """Return every size that a compute may stand in for."""
    from penala.workspace.sizes import sizes

    names = ("name", "family", "vcpus", "memory_gb", "gpus", "gpu", "retired")
    return [{name: getattr(size, name) for name in names} for size in sizes().values()]


@cache
def local() -> Compute:
    """Return this machine as a compute: as many slots as it has GPUs, or else cores."""
    machine = this_machine()
    return Compute(LOCAL, None, machine["gpus"], machine["gpus"] or machine["cores"])


def _of_row(row: ComputeRow) -> Compute:
    from penala.workspace.sizes import find_size

    settings = Settings(**row.settings)
    slots = min(settings.max_instances, local().slots)
    return Compute(row.name, row.size, find_size(row.size).gpus, slots, row.state, settings)


def this_machine() -> dict[str, Any]:
    """Return what this machine offers: cores, memory in GB, GPUs, and the arithmetic that training uses on it."""
    from penala.training.estimate import has_bf16

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": LOCAL,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "arithmetic": "bfloat16" if has_bf16() else "float32",
    }
