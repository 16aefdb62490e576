"""MLTable folders: which files and folders the table names. Steps that would change rows are refused by name."""

import glob
import os
from pathlib import Path
from typing import Any

import yaml

from penala.errors import UsageError

FILE = "MLTable"
# Each step that reads, with the options that we can honour and the values that mean what we do anyway.
# A delimiter is not listed because the table's first line tells it.
_UTF8 = ("utf8", "utf-8")
READERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "read_json_lines": {"encoding": _UTF8, "invalid_lines": ("error",), "include_path_column": (False,)},
    "read_delimited": {
        "delimiter": (",", ";", "\t", "|"),
        "encoding": _UTF8,
        "header": ("all_files_same_headers", "all_files_different_headers"),
        "include_path_column": (False,),
        "support_multi_line": (True,),
        "empty_as_string": (True,),
        "infer_column_types": (False,),
    },
    "read_parquet": {"include_path_column": (False,)},
}
_HINT = "check the path: it starts at the folder of the table"


def mltable_paths(folder: Path) -> list[Path]:
    """Return the files and folders that an MLTable names; raise UsageError for what we would not do as it says."""
    where = str(folder / FILE)
    try:
        table = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"is no MLTable: {why}", where=where, fix="see Azure ML's MLTable schema") from error
    if not isinstance(table, dict) or not isinstance(table.get("paths"), list) or not table["paths"]:
        raise UsageError("names no paths", where=where, fix="add `paths: [{file: ./train.jsonl}]`")
    steps = table.get("transformations") or []
    for step in steps if isinstance(steps, list) else [steps]:
        _check_step(step, where)
    return [found for path in table["paths"] for found in _found(folder, path, where)]


def _check_step(step: Any, where: str) -> None:
    name, options = next(iter(step.items())) if isinstance(step, dict) and len(step) == 1 else (step, None)
    if not isinstance(name, str) or name not in READERS:
        raise UsageError(f"the step {name!r} is not supported", where=where, fix=f"use one of {', '.join(READERS)}")
    if not isinstance(options, dict | None):
        raise UsageError(f"the options of {name} are {options!r}", where=where, fix="write them as `option: value`")
    for option, value in (options or {}).items():
        allowed = READERS[name].get(option, ())
        if value not in allowed:
            fix = f"leave it out or say {' or '.join(map(repr, allowed))}" if allowed else "leave it out"
            raise UsageError(f"{name} with {option}: {value!r} is not supported", where=where, fix=fix)


def _found(folder: Path, path: Any, where: str) -> list[Path]:
    kind, text = next(iter(path.items())) if isinstance(path, dict) and len(path) == 1 else (None, None)
    if kind not in ("file", "folder", "pattern") or not isinstance(text, str):
        raise UsageError(f"{path!r} is no path", where=where, fix="write {file: ...}, {folder: ...} or {pattern: ...}")
    if "://" in text or text.startswith("azureml:"):
        raise UsageError(f"{text} lies elsewhere", where=where, fix="download it and name the local file")
    if kind == "pattern":
        matches = sorted(glob.glob(os.path.join(glob.escape(str(folder)), text), recursive=True))
        found = [Path(os.path.normpath(match)) for match in matches if os.path.isfile(match)]
    else:
        place = folder / text
        found = [place] if (place.is_dir() if kind == "folder" else place.is_file()) else []
    if not found:
        raise UsageError(f"{text} matches no {'folder' if kind == 'folder' else 'file'}", where=where, fix=_HINT)
    return found
