"""MLTable folders: which files the table names. Steps that would change rows are refused by name."""

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


def mltable_files(folder: Path) -> list[Path]:
    """Return the files that an MLTable names; raise UsageError for what we would not do as it says."""
    where = str(folder / FILE)
    try:
        table = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UsageError(f"is no MLTable: {error}", where=where, fix="see Azure ML's MLTable schema") from error
    if not isinstance(table, dict) or not isinstance(table.get("paths"), list) or not table["paths"]:
        raise UsageError("names no paths", where=where, fix="add `paths: [{file: ./train.jsonl}]`")
    for step in table.get("transformations") or []:
        _check_step(step, where)
    return [file for path in table["paths"] for file in _files(folder, path, where)]


def _check_step(step: Any, where: str) -> None:
    name, options = next(iter(step.items())) if isinstance(step, dict) and step else (step, None)
    if name not in READERS:
        raise UsageError(f"the step {name!r} is not supported", where=where, fix=f"use one of {', '.join(READERS)}")
    for option, value in (options or {}).items():
        allowed = READERS[name].get(option, ())
        if value not in allowed:
            fix = f"leave it out or say {' or '.join(map(repr, allowed))}" if allowed else "leave it out"
            raise UsageError(f"{name} with {option}: {value!r} is not supported", where=where, fix=fix)


def _files(folder: Path, path: Any, where: str) -> list[Path]:
    kind, text = next(iter(path.items())) if isinstance(path, dict) and len(path) == 1 else (None, None)
    if kind not in ("file", "folder", "pattern") or not isinstance(text, str):
        raise UsageError(f"{path!r} is no path", where=where, fix="write {file: ...}, {folder: ...} or {pattern: ...}")
    if "://" in text:
        raise UsageError(f"{text} lies elsewhere", where=where, fix="download it and name the local file")
    pattern = f"{text.rstrip('/')}/*" if kind == "folder" else text
    files = sorted(found for found in folder.glob(pattern.removeprefix("./")) if found.is_file())
    if not files:
        raise UsageError(f"{text} matches no file", where=where, fix="check the path: it starts at the folder")
    return files
