"""`client.compute`: this machine, and computes that stand in for a cloud's sizes."""

from collections.abc import Iterator
from typing import Any

from azure.ai.ml.entities import AmlCompute, Compute, VmSize
from azure.core.polling import LROPoller

from penala.azure.failures import expect, expect_name, refusal
from penala.azure.operations.base import Operations
from penala.azure.poller import begin
from penala.workspace import compute as computes
from penala.workspace.sizes import sizes

AMLCOMPUTE = "amlcompute"


class ComputeOperations(Operations):
    """The computes of a client's workspace."""

    def get(self, name: str) -> Compute:
        """Return a compute. Raises ResourceNotFoundError."""
        expect_name(name, "a compute")
        with self._place.opened() as workspace:
            return self._entity(workspace.computes.show(name))

    def list(self, *, compute_type: str | None = None) -> Iterator[Compute]:
        """Return all computes; each is of the type amlcompute, in any letter case."""
        with self._place.opened() as workspace:
            found = workspace.computes.list() if (compute_type or AMLCOMPUTE).lower() == AMLCOMPUTE else []
            return iter([self._entity(one) for one in found])

    def list_sizes(self, *, location: str | None = None, compute_type: str | None = None) -> Iterator[VmSize]:
        """Return every size that a compute may stand in for, and `local`, this machine, which counts as one GPU."""
        machine = computes.this_machine()
        yield VmSize(
            name=computes.LOCAL,
            v_cp_us=machine["cores"],
            memory_gb=machine["memory_gb"],
            gpus=max(1, machine["gpus"]),  # notebooks multiply by it
        )
        for size in sizes().values():
            yield VmSize(
                name=size.name, family=size.family, v_cp_us=size.vcpus, memory_gb=size.memory_gb, gpus=size.gpus
            )

    def begin_create_or_update(self, compute: Compute) -> LROPoller[Compute]:
        """Create a compute that stands in for a size, or change how many nodes it counts as."""
        self._place.require_workspace("computes")
        if not isinstance(compute, AmlCompute):
            raise refusal(f"{type(compute).__name__} has no stand-in here; use AmlCompute")
        if not compute.name or not compute.size:
            raise refusal("a compute needs a name and a size; compute.list_sizes() gives all sizes")

        def create() -> Compute:
            with self._place.opened() as workspace:
                settings = computes.Settings(
                    min_instances=compute.min_instances or 0,
                    max_instances=compute.max_instances or 1,
                    idle_seconds=int(compute.idle_time_before_scale_down or 0),
                    tier="low_priority" if str(compute.tier).lower().startswith("low") else "dedicated",
                )
                return self._entity(workspace.computes.create(compute.name, str(compute.size), settings))

        return begin(create)

    def begin_update(self, compute: Compute) -> LROPoller[Compute]:
        """Change how many nodes a compute counts as. Raises ResourceNotFoundError where there is none."""
        expect(compute, Compute, "compute")
        self.get(str(compute.name))
        return self.begin_create_or_update(compute)

    def begin_delete(self, name: str, *, action: str = "Delete") -> LROPoller[None]:
        """Remove a compute; `action` is the same for all of them."""
        expect_name(name, "a compute")

        def delete() -> None:
            with self._place.opened() as workspace:
                workspace.computes.delete(name)

        return begin(delete)

    def _entity(self, found: computes.Compute) -> AmlCompute:
        more: dict[str, Any] = {"provisioning_state": found.state, "id": f"{self._place.id}/computes/{found.name}"}
        return AmlCompute(
            name=found.name,
            description=found.describe(),
            size=found.size or computes.LOCAL,
            min_instances=found.settings.min_instances,
            max_instances=found.settings.max_instances,
            idle_time_before_scale_down=found.settings.idle_seconds,
            tier=found.settings.tier,
            **more,
        )
