"""What every group of operations is."""

from typing import Any

from penala.azure.place import AzurePlace


class Operations:
    """Operations on one place; what the SDK has beyond them is said by its name."""

    def __init__(self, place: AzurePlace) -> None:
        self._place = place

    def __getattr__(self, name: str) -> Any:
        """Say what there is instead."""
        known = ", ".join(one for one in dir(type(self)) if not one.startswith("_"))
        raise AttributeError(f"{type(self).__name__} has no '{name}' on this machine; it has {known}")
