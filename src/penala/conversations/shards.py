"""A folder of shards: which of its files are data, and what is to be said of the others, so that none is lost."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from penala.conversations import mltable
from penala.conversations.faults import Fault
from penala.errors import UsageError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt")
TABLE_SUFFIXES = (".csv", ".tsv")
ARROW_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES + ARROW_SUFFIXES
DATA_FILES = f"data files end in {', '.join(SUFFIXES)} (or .gz)"
# written beside the shards by datasets.save_to_disk and by hub downloads; they are about the data
ABOUT_DATA = {"dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json"}
_NO_DATA = ABOUT_DATA | {mltable.FILE}
_OWN_NOTES = ".download.json"  # of `penala data download`
_HELD_OUT = {"test", "validation", "valid", "val", "dev", "eval"}


class Found(NamedTuple):
    """The data files that a path means, and what is to be said of other files that lie there, or of the whole."""

    files: list[Path]
    said: list[tuple[Path, Fault]]


def shards(folder: Path) -> Found:
    """Return the data files in a folder and below, in order, and what was passed over; raise UsageError for none."""
    closed: list[OSError] = []
    files: list[Path] = []
    said: list[tuple[Path, Fault]] = []
    for path in sorted(_files_below(folder, closed.append)):
        is_data = suffix_of(path) in SUFFIXES
        if path.name in _NO_DATA or path.name.endswith(_OWN_NOTES):
            continue
        if any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
            if is_data:
                fix = "rename it if it belongs to the data"
                said.append((path, Fault("skipped_file", "", "is hidden by its name", fix)))
        elif not is_data:
            said.append((path, Fault("skipped_file", "", "is not a data file")))
        elif path.suffix == ".arrow" and not _is_saved(path):
            said.append((path, Fault("skipped_file", "", "is a cache of datasets, no part of the saved set")))
        else:
            files.append(path)
    for error in closed:
        what = f"cannot be listed: {error.strerror}"
        said.append((Path(error.filename), Fault("unreadable_file", "", what, "check the folder's permissions")))
    if not files and closed:
        raise UsageError(said[-1][1].message, where=str(said[-1][0]), fix=said[-1][1].fix)
    if not files:
        raise UsageError("the folder holds no data file", where=str(folder), fix=DATA_FILES)
    return Found(files, said)


def _files_below(folder: Path, refused: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield what lies in a folder and in those below, through links too, each folder once."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root, name) for name in names)


def _is_saved(path: Path) -> bool:
    """Tell whether an Arrow file is one of those that datasets.save_to_disk wrote, where it wrote any."""
    try:
        state = json.loads((path.parent / "state.json").read_bytes())
        return path.name in {file["filename"] for file in state["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return True


def splits_of(folder: Path, files: list[Path]) -> list[str]:
    """Return the splits that files or folders below a folder are named after, when train is one of several."""
    found: dict[str, None] = {}
    for path in files:
        parts = [part.lower().rpartition("=")[2] for part in path.relative_to(folder).parts]  # split=train, as Hive has
        words = [re.split(r"[^a-z]", part)[0] for part in parts]
        found |= dict.fromkeys([word for word in words if word == "train" or word in _HELD_OUT][:1])
    return list(found) if "train" in found and len(found) > 1 else []


def suffix_of(path: Path) -> str:
    """Return the suffix that tells what a file holds, that of what is packed."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
