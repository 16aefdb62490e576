"""What earlier rows said, so that a row that comes again is noticed, in its own file or in another split."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from penala.conversations.faults import Fault

Place = tuple[int, str, int]  # where a row stands: the number of its path among those checked together, file, line


def row_key(roles: tuple[str, ...], joined: str, more: str = "") -> int:
    """Return 64 bits that stand for what a row says, as it was written: two rows share them when they are the same.

    By the birthday bound, a million different rows collide with a chance of 3e-8.
    """
    return hash((roles, joined, more))


class Said(NamedTuple):
    """What a row says, as digests of 64 bits; None where it has no prompt or no prompt_id of its own."""

    key: int
    prompt: int | None
    prompt_id: int | None

    @classmethod
    def of(cls, key: int, prompt: Any, prompt_id: Any) -> "Said":
        """Take the digests of a row's columns."""
        return cls(
            key,
            hash(prompt) if isinstance(prompt, str) else None,
            hash(prompt_id) if isinstance(prompt_id, str | int) else None,
        )


class Seen:
    """The good rows so far, by what they say, by prompt and by prompt_id. Holds digests, not texts."""

    def __init__(self) -> None:
        self._rows: dict[int, Place] = {}
        self._prompts: dict[int, Place] = {}
        self._ids: dict[int, tuple[int, Place]] = {}

    def look(self, said: Said, place: Place) -> Sequence[Fault]:
        """Remember a row; return what it repeats. A repeated row is not blamed for its repeated prompt too."""
        first = self._rows.setdefault(said.key, place)
        if first is not place:
            if first[0] != place[0]:
                return [Fault("in_two_splits", "", f"stands in another split too, at {_at(first)}")]
            return [Fault("duplicate", "", f"says the same as the row at {_at(first)}")]
        if said.prompt is None:
            return ()
        faults = []
        first = self._prompts.setdefault(said.prompt, place)
        if first is not place:
            faults.append(Fault("same_prompt", "prompt", f"the same prompt stands at {_at(first)}"))
        if said.prompt_id is not None:
            other, first = self._ids.setdefault(said.prompt_id, (said.prompt, place))
            if other != said.prompt:
                faults.append(Fault("same_prompt_id", "prompt_id", f"another prompt has this id at {_at(first)}"))
        return faults


def _at(place: Place) -> str:
    return f"{place[1]}:{place[2]}"
