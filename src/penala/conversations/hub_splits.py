"""Which files of a hub repository make which split: as its card says, else as its file names tell."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec
import yaml

from penala.conversations.shards import ABOUT_DATA
from penala.conversations.visible import visible
from penala.errors import DataError

DEFAULT = "default"
YES = ("true", "yes", "on")  # as YAML spells it
_NULL = "tag:yaml.org,2002:null"


class _Texts(yaml.SafeLoader):
    """Leaves every value a text but null: `no` is a language here, and a date need not be one."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the loader's own way
        first: [(tag, form) for tag, form in found if tag == _NULL]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


KINDS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # of two that are as common, the first is taken
_NAME = re.compile(r"\w+(\.\w+)*")  # it becomes a file name
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*?)-\d+(?P<of>-of-\d+)?(?:-\w+)?")
_WORD = r"(train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?|dev|eval(?:uation)?)(?![A-Za-z])"
_BEGINS = re.compile(_WORD, re.IGNORECASE)
_NUMBERED = re.compile(_WORD + r"_?\d+", re.IGNORECASE)
_WITHIN = re.compile(r"(?<![A-Za-z])" + _WORD, re.IGNORECASE)

Splits = dict[str, "Split"]
Names = dict[str, list[str]]  # split -> paths


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, and its size in bytes."""

    path: str
    size: int

    def __post_init__(self) -> None:
        """Raise ValueError for a size that is none."""
        if self.size < 0:
            raise ValueError(f"{self.path} of {self.size} bytes")


@dataclass(frozen=True, slots=True)
class Split:
    """The files of a split in the order of its rows, and how many rows the card claims."""

    files: tuple[RemoteFile, ...]
    rows: int | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Layout:
    """The splits of each configuration, the configuration that is meant when none is named, and what to tell.

    `refused` tells of the configurations whose files cannot be read why.
    """

    configs: dict[str, Splits]
    default: str | None
    notes: list[str]
    refused: dict[str, str]


class _Files(msgspec.Struct):
    path: str | list[str]
    split: str = "train"


class _Config(msgspec.Struct):
    config_name: str = DEFAULT
    data_files: str | list[str | _Files] | None = None
    data_dir: str | None = None
    default: str = ""

    @property
    def is_default(self) -> bool:
        return self.default.lower() in YES


class _SplitInfo(msgspec.Struct):
    name: str
    num_examples: int | None = None


class _Info(msgspec.Struct):
    config_name: str = DEFAULT
    splits: list[_SplitInfo] = []


class Card(msgspec.Struct):
    """What the head of a README.md says about files and rows."""

    configs: list[_Config] = []
    dataset_info: list[_Info] = []


def read_card(readme: bytes) -> Card:
    """Return what the YAML head of a README.md says; raise DataError when it cannot be understood."""
    lines = readme.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return Card()
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    try:
        head = yaml.load("\n".join(lines[1:end]), _Texts)
        if not isinstance(head, dict):
            return Card()
        return Card(msgspec.convert(head.get("configs") or [], list[_Config]), _claims(head.get("dataset_info")))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # msgspec's errors too
        raise DataError(f"its head cannot be understood: {visible(str(error).splitlines()[0])}") from None


def _claims(said: Any) -> list[_Info]:
    """Return how many rows the card claims; of what it says otherwise than expected, nothing is believed."""
    try:
        return msgspec.convert(said if isinstance(said, list) else [said], list[_Info], strict=False)
    except msgspec.ValidationError:
        return []


def kind_of(path: str) -> str:
    """Return what the name says a file is, such as `.jsonl`, with `.gz` left out."""
    name = PurePosixPath(path.lower())
    return PurePosixPath(name.stem).suffix if name.suffix == ".gz" else name.suffix


def is_packed(path: str) -> bool:
    """Tell whether a file is gzip by its name."""
    return path.lower().endswith(".gz")


def lay_out(files: Sequence[RemoteFile], card: Card) -> Layout:
    """Return which files make which split of which configuration.

    The card's `configs` decide; without them names like train-00000-of-00002.parquet, data/test.jsonl or
    validation/part-1.csv do.
    """
    data = {file.path: file for file in sorted(files, key=lambda file: file.path) if _is_data(file.path)}
    listed = [entry for entry in card.configs if entry.data_files or entry.data_dir]
    notes: list[str] = []
    found: dict[str, Names] = {}
    refused: dict[str, str] = {}
    for entry in listed:
        try:
            found[entry.config_name] = _listed(entry, list(data))
        except DataError as error:
            refused[entry.config_name] = error.what
    if not listed:
        kind = _commonest(data)
        found = _inferred([path for path in data if kind_of(path) == kind])
        if others := sum(kind_of(path) != kind for path in data):
            notes.append(f"{others} data files that are not {kind} are left out")
    claims = {info.config_name: {split.name: split.num_examples for split in info.splits} for info in card.dataset_info}
    only_claim = next(iter(claims.values())) if len(claims) == len(found) + len(refused) == 1 else {}
    configs: dict[str, Splits] = {}
    for config, names in found.items():
        rows = claims.get(config, only_claim)
        configs[config] = {
            split: Split(tuple(data[path] for path in paths), rows.get(split)) for split, paths in names.items()
        }
    marked = [entry.config_name for entry in listed if entry.is_default]
    configs = {config: splits for config, splits in configs.items() if splits}
    known = [*configs, *refused]
    only = known if len(known) == 1 else []
    default = next((name for name in (*marked, DEFAULT, *only) if name in known), None)
    return Layout(configs, default, notes, refused)


def _is_data(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith((".", "_")) for part in parts)
    return not hidden and parts[-1] not in ABOUT_DATA and kind_of(path) in KINDS


def _commonest(paths: Iterable[str]) -> str:
    counted = Counter(map(kind_of, paths))
    return max(KINDS, key=lambda kind: counted[kind])


# --- what the card says


def _listed(entry: _Config, paths: Sequence[str]) -> Names:
    """Return the splits of one `configs` entry: patterns, {split, path}, or a folder to look into.

    Raises DataError for files which are not there.
    """
    folder = (entry.data_dir or "").removeprefix("./").strip("/")
    given = entry.data_files
    if not given:
        inside = [path for path in paths if path.startswith(f"{folder}/")]
        return {split: files for names in _inferred(inside).values() for split, files in names.items()}
    splits: Names = {}
    for item in [given] if isinstance(given, str) else given:
        files = _Files(item) if isinstance(item, str) else item
        if not _NAME.fullmatch(files.split):
            raise DataError(f"'{visible(files.split)}' is no name of a split")
        known = splits.setdefault(files.split, [])
        for pattern in [files.path] if isinstance(files.path, str) else files.path:
            matches = _match(f"{folder}/{pattern}" if folder else pattern, paths)
            if not matches:
                raise DataError(f"no data file matches '{visible(pattern)}' of split {files.split}")
            known += [path for path in matches if path not in known]
    return splits


def _match(pattern: str, paths: Sequence[str]) -> list[str]:
    from fsspec.utils import glob_translate  # the card's patterns are fsspec's

    wanted = pattern.removeprefix("./").rstrip("/")
    try:
        regex = re.compile(glob_translate(wanted))
    except ValueError as error:
        raise DataError(visible(f"'{pattern}' is no pattern: {error}")) from None
    return [path for path in paths if regex.match(path)] or [path for path in paths if path.startswith(f"{wanted}/")]


# --- what the names say


def _inferred(paths: Sequence[str]) -> dict[str, Names]:
    """Return {configuration: {split: files}}: splits by file name or folder, configurations by the folder above."""
    found: dict[str, Names] = {}
    for path in paths:
        home, split = _place(PurePosixPath(path))
        found.setdefault(home, {}).setdefault(split, []).append(path)
    if len(found) == 1:
        return {DEFAULT: next(iter(found.values()))}
    return {home or DEFAULT: names for home, names in found.items()}


def _place(path: PurePosixPath) -> tuple[str, str]:
    """Return the folder that makes a configuration, and the split."""
    stem = PurePosixPath(path.stem).stem if is_packed(path.name) else path.stem
    shard = _SHARD.fullmatch(stem)
    name = shard["split"] if shard else stem
    if split := _split_of(name):
        return _folder(path.parent), split
    for number, part in enumerate(path.parts[:-1]):
        if _BEGINS.match(part) and _NAME.fullmatch(part):
            return _folder(PurePosixPath(*path.parts[:number])), part
    return _folder(path.parent), name if shard and shard["of"] else "train"


def _split_of(name: str) -> str | None:
    """Return the split that a file's name tells: train_sft of train_sft.jsonl, train of train2.csv and my-train.csv."""
    if numbered := _NUMBERED.fullmatch(name):
        return numbered[1]
    if _BEGINS.match(name):
        return re.split(r"\W", name, maxsplit=1)[0]
    within = _WITHIN.search(name)
    return within[1] if within else None


def _folder(path: PurePosixPath) -> str:
    return "" if path == PurePosixPath() else path.as_posix()
