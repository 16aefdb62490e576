"""The rows that stand out: the few largest by some measure, each with its place and how it begins."""

import heapq
from dataclasses import dataclass
from typing import Any

from penala.conversations.conversation import Conversation
from penala.conversations.visible import excerpt


@dataclass(frozen=True, slots=True)
class Notable:
    """One row that stands out; `why` says by what."""

    why: str
    file: str
    line: int
    row: int
    excerpt: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


class Largest:
    """Keeps the `size` rows with the largest value; of equal ones the first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Notable]] = []
        self._offered = 0

    def offer(self, value: float, why: str, conversation: Conversation) -> None:
        """Keep a row when it is among the largest so far."""
        self._offered += 1
        if len(self._heap) == self._size and value <= self._heap[0][0]:
            return
        first = next((message.content for message in conversation.messages if message.role == "user"), "")
        place = conversation.file, conversation.line, conversation.row
        entry = (value, -self._offered, Notable(why, *place, excerpt(first)))
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    @property
    def rows(self) -> list[Notable]:
        """The rows, the largest first."""
        return [notable for _, _, notable in sorted(self._heap, reverse=True)]
