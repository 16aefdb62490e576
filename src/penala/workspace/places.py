"""Where things stand in documents, and everything that is wrong with them, told at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from penala.errors import PenalaError, UsageError, near


@dataclass(frozen=True, slots=True)
class Place:
    """A key of a document: `source` is the document's file or what it is called, `folder` where its paths start."""

    source: str
    folder: Path
    key: str = ""

    def at(self, *keys: str) -> Place:
        """Return the place of a key below this one."""
        return replace(self, key=".".join(part for part in (self.key, *keys) if part))

    def __str__(self) -> str:
        return f"{self.source}: {self.key}" if self.key else self.source


@dataclass(slots=True)
class Problems:
    """What is wrong, collected so that one look at a document finds all of it, and what a person should be told."""

    found: list[UsageError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, place: Place | str, fix: str | None = None, *, key: str = "") -> None:
        """Remember a problem, once; with the line of `key`, where it is one below the place."""
        error = UsageError(what, where=_with_line(place, key), fix=fix or None)
        if str(error) not in map(str, self.found):
            self.found.append(error)

    def note(self, text: str) -> None:
        """Remember something to tell, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def collected(self, place: Place) -> Iterator[None]:
        """Remember what is raised inside as a problem at `place`, which gets in front of a place that it names."""
        try:
            yield
        except PenalaError as error:
            where = error.where if error.where and error.where != str(place) else None
            self.add(f"{where}: {error.what}" if where else error.what, place, error.fix)

    def raise_all(self) -> None:
        """Raise UsageError with everything that was found; do nothing when that is nothing."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise UsageError("\n".join([f"{len(self.found)} problems", *(f"  {error}" for error in self.found)]))

    def mapping(self, value: Any, place: Place) -> Mapping[str, Any]:
        """Return a mapping with text as its keys; an empty one for None; anything else is a problem."""
        if isinstance(value, Mapping):
            return {str(key): inner for key, inner in value.items()}
        if value is not None:
            self.add("is not a mapping", place, "write `key: value` lines below it")
        return {}

    def check_keys(self, given: Iterable[str], known: Collection[str], place: Place) -> None:
        """Refuse a key that is like a known one; say of any other unknown one that it has no effect."""
        for key in given:
            if key in known:
                continue
            if hint := near(key, known):
                self.add(f"unknown key '{key}'", place, hint, key=key)
            else:
                self.note(f"{place.at(key)} has no effect here")


def _with_line(place: Place | str, below: str = "") -> str:
    """Return a place as text, with its line, or that of a key below it, where the document is a YAML file."""
    if isinstance(place, str) or not (place.key or below):
        return str(place)
    try:
        lines = _lines(yaml.compose(Path(place.source).read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return str(place)
    key = place.at(below).key
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return str(replace(place, source=f"{place.source}:{lines[key]}")) if key else str(place)


def _lines(node: Any, prefix: str = "") -> dict[str, int]:
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}.{key.value}".lstrip(".")
            found[path] = key.start_mark.line + 1
            found |= _lines(value, path)
    return found


def load_yaml(file: Path) -> Any:
    """Return the YAML or JSON of a file. Raises UsageError that names the file and, for YAML, the line."""
    try:
        loaded = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_LOADER)
        json.dumps(loaded, default=str, skipkeys=True)  # raises ValueError where an alias makes it hold itself
        return loaded
    except FileNotFoundError:
        raise UsageError("there is no such file", where=str(file), fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {getattr(error, 'strerror', error)}", where=str(file)) from None
    except (yaml.YAMLError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = str(file) if line is None else f"{file}:{line + 1}"
        raise UsageError(f"is not YAML: {getattr(error, 'problem', error)}", where=place) from None


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is seven times as fast
