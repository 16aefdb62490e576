"""The SDK's own pollers over work that is done on this machine."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from azure.core.polling import LROPoller, PollingMethod

T = TypeVar("T")


class _Work(PollingMethod[Any], Generic[T]):
    """Runs a function in the thread that every LROPoller has."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T | None = None
        self._status = "InProgress"

    def initialize(self, client: Any, initial_response: Any, deserialization_callback: Any) -> None:
        """Wait for the poller's thread."""

    def run(self) -> None:
        """Do the work."""
        try:
            self._result = self._work()
        except BaseException:
            self._status = "Failed"
            raise
        self._status = "Succeeded"

    def status(self) -> str:
        """Return InProgress, Succeeded or Failed."""
        return self._status

    def finished(self) -> bool:
        """Tell whether the work has ended."""
        return self._status != "InProgress"

    def resource(self) -> Any:
        """Return what the work returned."""
        return self._result

    def get_continuation_token(self) -> str:
        """Return a text, which the poller puts into its errors; nothing can be continued from it."""
        return ""


def begin(work: Callable[[], T]) -> LROPoller[T]:
    """Start `work` in a thread and return its poller; what it raises comes out of `wait` and `result`."""
    return LROPoller(None, None, lambda response: response, _Work(work))
