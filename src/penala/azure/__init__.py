"""Azure ML's SDK here, and the way to the real Azure ML. The only folder that imports azure; loaded when it is used.

from penala.azure import LocalMLClient as MLClient      the one line that a notebook changes
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penala.azure.client import LocalMLClient

__all__ = ["LocalMLClient"]


def __getattr__(name: str) -> Any:
    """Load the SDK, which takes seconds, when a client is asked for."""
    if name == "LocalMLClient":
        from penala.azure.client import LocalMLClient

        return LocalMLClient
    raise AttributeError(f"module 'penala.azure' has no attribute '{name}'")
