"""The recipe: one YAML file that says which base model, which conversations, how to tune and where to deploy."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from penala.assets import parse
from penala.errors import RecipeError, near
from penala.inputs import PIPELINE, InputSpec, component_inputs, used_inputs

# What penala sets where neither the recipe nor the model's publisher does; the rest is the component's default.
OUR_DEFAULTS: Mapping[str, Any] = {
    "apply_lora": "true",
    "lora_r": 16,
    "lora_alpha": 32,
    "learning_rate": 2e-4,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "precision": "16",
    "save_total_limit": 1,
}
FOR_LORA = frozenset({"lora_r", "lora_alpha", "learning_rate"})  # ten times what training all weights bears
# Inputs of the pipeline that a recipe says elsewhere: name -> where
SAID_ELSEWHERE: Mapping[str, str] = {
    "train_file_path": "conversations.train",
    "validation_file_path": "conversations.validation",
    "test_file_path": "conversations.test",
    "train_mltable_path": "conversations.train",
    "validation_mltable_path": "conversations.validation",
    "test_mltable_path": "conversations.test",
    "huggingface_id": "base_model",
    "pytorch_model_path": "base_model",
    "mlflow_model_path": "base_model",
    "catalogue_model": "base_model",
    "finetune_config_path": "base_model",
    "conversation_schema": "conversations.schema",
    "column_mapping": "conversations.columns",
    "validation_split": "conversations.validation",
    "test_split": "conversations.test",
    "on_bad_row": "conversations.on_bad_row",
    "on_too_long": "conversations.on_too_long",
    "train_on": "conversations.train_on",
    "train_tool_calls": "conversations.train_tool_calls",
    "forgetting_file_path": "evaluation.forgetting",
    "evaluation_config": "evaluation",
    "evaluation_config_params": "evaluation",
}
_COMPUTE = re.compile(r"^(compute|instance_type|shm_size)_")
_SHARE = re.compile(r"^(\d+(?:\.\d+)?)\s*%$")
_HUB = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?"
    r"(?:/(?P<config>[^/]+))?/(?P<split>\w+(?:\.\w+)*)"
)
Split = Annotated[str, Field(description="A path, a share of train such as 10%, or none")]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$"
_ENDPOINT_NAME = r"^[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]$"
_COMPUTE_NAME = r"^[A-Za-z][A-Za-z0-9-]{0,30}[A-Za-z0-9]$"
_IN_WORDS = {
    _NAME: "up to 255 letters, digits, '.', '_' and '-', first a letter or digit",
    _ENDPOINT_NAME: "3 to 32 letters, digits and '-', first a letter, last no '-'",
    _COMPUTE_NAME: "2 to 32 letters, digits and '-', first a letter, last no '-'",
}
Name = Annotated[str, Field(pattern=_NAME)]
EndpointName = Annotated[str, Field(pattern=_ENDPOINT_NAME)]


class HubAddress(NamedTuple):
    """A split of a data set on the Hugging Face hub."""

    repo: str
    revision: str | None
    config: str | None
    split: str

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return "/".join(filter(None, (f"hf://datasets/{self.repo}{at}", self.config, self.split)))


def hub_address(value: str | None) -> HubAddress | None:
    """Return what hf://datasets/OWNER/NAME[@REVISION][/CONFIG]/SPLIT names, or None for what does not begin so.

    Raises ValueError for one that is not whole.
    """
    if value is None or not value.startswith("hf://"):
        return None
    if (match := _HUB.fullmatch(value)) is None:
        raise ValueError(f"{value} names no split; write hf://datasets/OWNER/NAME/SPLIT")
    return HubAddress(match["repo"], match["revision"], match["config"], match["split"])


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Conversations(_Part):
    """Which conversations, and what happens to rows that do not fit."""

    train: str = Field(
        description="File, folder or glob of conversations, hf://datasets/REPO/SPLIT, or a data asset azureml:NAME"
    )
    validation: Split | None = None
    test: Split | None = None
    schema_: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"] = Field("auto", alias="schema")
    columns: dict[str, str] = Field(default_factory=dict, description="Our column name -> the file's")
    on_bad_row: Literal["error", "drop"] = "error"
    on_too_long: Literal["error", "cut_turns", "drop"] = "error"
    train_on: Literal["all_turns", "last_turn"] = Field(
        "all_turns", description="Which turns of the assistant are trained; a message's weight 0 leaves it out too"
    )
    train_tool_calls: bool = Field(True, description="Whether turns that call tools are trained")

    @field_validator("train", "validation", "test")
    @classmethod
    def _addresses_are_whole(cls, value: str | None) -> str | None:
        hub_address(value)
        if value is not None and value.startswith("azureml:"):
            parse(value, "data")
        return value

    @field_validator("validation", "test")
    @classmethod
    def _share_below_all(cls, value: str | None) -> str | None:
        share = share_of(value)
        if share is not None and not 0 < share < 1:
            raise ValueError(f"{value} leaves nothing on one side; use a share between 0% and 100%")
        return value


class Settings(_Part):
    """Settings of the pipeline job, with Azure's names."""

    force_rerun: bool = Field(False, description="Run every step again, even an unchanged one")


class RegisteredModel(_Part):
    """What the tuned model is registered as."""

    name: Name
    version: Name | None = Field(None, description="Unset: the next whole number")
    tags: dict[str, str] = Field(default_factory=dict)


class RequestSettings(_Part):
    """How many requests a deployment takes, with Azure's names."""

    request_timeout_ms: int = Field(120_000, ge=1, le=3_600_000)
    max_concurrent_requests_per_instance: int = Field(16, ge=1, le=1000)
    max_queue_wait_ms: int = Field(60_000, ge=1, le=3_600_000)


class Endpoint(_Part):
    """Where the tuned model answers."""

    name: EndpointName
    deployment: EndpointName = "default"
    port: int | None = Field(None, ge=1, le=65535, description="Unset: a free port, which the endpoint keeps")
    request_settings: RequestSettings = RequestSettings()


class Sample(_Part):
    """The conversation that is scored at the end."""

    file: str | None = None
    messages: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "Sample":
        if (self.file is None) == (self.messages is None):
            raise ValueError("give either file or messages")
        return self


class AzureCompute(_Part):
    """The cluster of the Azure ML workspace that tunes; made when it is not there."""

    name: Annotated[str, Field(pattern=_COMPUTE_NAME)]
    size: str = Field(description="Such as Standard_NC24ads_A100_v4; `penala compute sizes` lists them")
    min_instances: int = Field(0, ge=0)
    max_instances: int = Field(1, ge=1)
    idle_seconds: int = Field(120, ge=0, description="Before an idle node is given back")
    tier: Literal["dedicated", "low_priority"] = "dedicated"


class AzureML(_Part):
    """Where `--on azureml` runs the recipe. Without the three names, the nearest config.json says which workspace."""

    subscription_id: str | None = None
    resource_group: str | None = None
    workspace_name: str | None = None
    compute: AzureCompute | None = None
    instance_type: str | None = Field(None, description="Size of the machine that the deployment runs on")
    instance_count: int = Field(1, ge=1)
    allow_retired: bool = Field(False, description="Whether a model or a size that Azure has retired may be tried")

    @model_validator(mode="after")
    def _whole_or_no_target(self) -> "AzureML":
        names = ("subscription_id", "resource_group", "workspace_name")
        missing = [name for name in names if getattr(self, name) is None]
        if missing and len(missing) < len(names):
            raise ValueError(f"no {' and no '.join(missing)}; give all three names of the workspace or none")
        return self


class Recipe(_Part):
    """A whole recipe; `folder` is where its relative paths start."""

    base_model: str = Field(
        description="Catalogue NAME or NAME:VERSION, a folder, a hub id, or azureml://registries/..."
    )
    conversations: Conversations
    finetuning: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    settings: Settings = Settings()
    model: RegisteredModel | None = None
    endpoint: Endpoint | None = None
    sample: Sample | None = None
    azureml: AzureML | None = None

    _folder: Path = Path()
    _file: Path = Path()
    _overrides: tuple[str, ...] = ()

    @field_validator("base_model", mode="before")
    @classmethod
    def _base_model_is_text(cls, value: Any) -> Any:
        if not isinstance(value, str) or not value.strip():
            raise ValueError("name a base model, such as SmolLM2-135M-Instruct; `penala models list` shows them")
        return value

    @model_validator(mode="after")
    def _sample_needs_an_endpoint(self) -> "Recipe":
        if self.sample is not None and self.endpoint is None:
            raise ValueError("sample is scored at the endpoint; add `endpoint: {name: ...}` or leave sample out")
        return self

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from."""
        return self._folder

    @property
    def file(self) -> Path:
        """The recipe's own file."""
        return self._file

    @property
    def overrides(self) -> tuple[str, ...]:
        """What was given as KEY=VALUE beside the file."""
        return self._overrides

    @property
    def model_name(self) -> str:
        """The name the tuned model gets: `model.name`, else the recipe's own name."""
        if self.model is not None:
            return self.model.name
        stem = self._file.stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self._folder.name if stem == "recipe" else stem).strip("-._") or "model"

    def path(self, value: str) -> Path:
        """Return `value` as an absolute path, relative ones counted from the recipe's folder."""
        return (self._folder / value).absolute()

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read and check a recipe file; `overrides` are KEY=VALUE with dotted keys and YAML values.

        Raises RecipeError with file, line and key of every problem.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecipeError("no such recipe", where=str(file), fix="`penala recipe init` writes one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot be read: {error}", where=str(file)) from None
        data, lines = _parse_yaml(text, file)
        for override in overrides:
            _override(data, override)
        try:
            recipe = cls.model_validate(data)
        except ValidationError as error:
            problems = [_plain(problem) for problem in error.errors()]
            inputs = data.get("finetuning")
            if isinstance(inputs, dict) and all(isinstance(name, str) for name in inputs):
                problems += finetuning_problems(inputs)
        else:
            recipe._folder, recipe._file, recipe._overrides = file.absolute().parent, file.absolute(), tuple(overrides)
            problems = finetuning_problems(recipe.finetuning)
        if problems:
            raise _joined([_located(problem, file, lines) for problem in problems])
        return recipe


def set_flags(overrides: Iterable[str]) -> list[str]:
    """Return overrides as they are typed: --set KEY=VALUE of each."""
    return [word for override in overrides for word in ("--set", override)]


def share_of(split: str | None) -> float | None:
    """Return the share that a split such as "10%" names, in 0..1, or None when it is no share."""
    match = _SHARE.match(split.strip()) if split else None
    return float(match[1]) / 100 if match else None


# --- finetuning: the component's inputs, and where each value comes from


@dataclass(frozen=True, slots=True)
class Setting:
    """A fine-tuning input with the value that runs and who set it."""

    name: str
    value: Any
    source: str  # you, model, penala or component
    description: str


def finetuning_inputs() -> dict[str, InputSpec]:
    """Return the inputs that a recipe's `finetuning` may set: the component's training and preprocessing inputs."""
    return {
        name: spec
        for name, spec in component_inputs(PIPELINE).items()
        if name not in SAID_ELSEWHERE and not _COMPUTE.match(name) and not spec.is_data and name != "task_name"
    }


def finetuning_problems(given: Mapping[str, Any]) -> list[RecipeError]:
    """Return one error for each setting that cannot run, with `where` = its key."""
    problems = []
    for name, value in given.items():
        try:
            _check_setting(name, value)
        except RecipeError as error:
            problems.append(RecipeError(error.what, where=f"finetuning.{name}", fix=error.fix))
    beside = [name for name in given if name.startswith("lora_")]
    if not problems and beside and str(given.get("apply_lora", "true")).lower() == "false":
        what = f"is false beside {', '.join(beside)}"
        problems.append(RecipeError(what, where="finetuning.apply_lora", fix="leave it out or set it to true"))
    return problems


def _check_setting(name: str, value: Any) -> None:
    known = component_inputs(PIPELINE)
    allowed = finetuning_inputs()
    if name in SAID_ELSEWHERE:
        raise RecipeError("is not set here", fix=f"say it under {SAID_ELSEWHERE[name]}")
    if name not in known:
        fix = near(name, allowed) or "`penala recipe show` lists them"
        raise RecipeError("is no input of the fine-tuning component", fix=fix)
    if name not in allowed:
        raise RecipeError("is a compute, data or task input, which a recipe does not set", fix="leave it out")
    spec = known[name]
    parsed = spec.parse(value)
    if name not in used_inputs() and parsed != spec.default:
        fix = f"leave it out; only its default, {spec.default}, runs"
        raise RecipeError(f"{parsed} cannot be honoured yet", fix=fix)
    if name == "learning_rate" and parsed <= 0:
        raise RecipeError(f"is {parsed}", fix="use a number above 0")


def resolve_finetuning(given: Mapping[str, Any], model_defaults: Mapping[str, Any]) -> tuple[list[Setting], list[str]]:
    """Merge the values of the user, the model's publisher, penala and the component; return them and what to tell.

    The user's value wins, then the model's, then penala's, then the component's. A model default that no component
    declares, or that cannot run here, is named in the notes and skipped. Raises RecipeError for a refused value.
    """
    notes, from_model = [], {}
    allowed = finetuning_inputs()
    for name, value in model_defaults.items():
        if name not in allowed:
            notes.append(f"the model's default {name} = {value} is no input of the component: skipped")
        elif name not in given:
            try:
                _check_setting(name, value)
                if name == "apply_lora" and finetuning_problems({**given, name: value}):
                    raise RecipeError("the recipe sets LoRA's inputs")
            except RecipeError as error:
                notes.append(f"the model's default {name} = {value}: {error}; the default stays")
            else:
                from_model[name] = value
    settings = []
    whole = str(given.get("apply_lora", from_model.get("apply_lora", "true"))).lower() == "false"
    ours = {name: value for name, value in OUR_DEFAULTS.items() if not (whole and name in FOR_LORA)}
    for name, spec in allowed.items():
        sources = (("you", given), ("model", from_model), ("penala", ours), ("component", {name: spec.default}))
        source, value = next((source, values[name]) for source, values in sources if name in values)
        parsed = None if value is None else spec.parse(value, where=f"finetuning.{name}")
        settings.append(Setting(name, parsed, source, spec.description))
    return settings, notes + _bounds(settings, from_model | dict(given))


def _bounds(settings: Iterable[Setting], bounds: Mapping[str, Any]) -> list[str]:
    rate = next(float(setting.value) for setting in settings if setting.name == "learning_rate")
    low = float(bounds.get("learning_rate_min", 0))
    high = float(bounds.get("learning_rate_max", "inf"))
    if low <= rate <= high:
        return []
    return [f"warning: learning_rate {rate:g} is outside the model publisher's {low:g} to {high:g}; yours runs"]


# --- YAML with line numbers, and errors that name them


def _parse_yaml(text: str, file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: looks like a date, and is none
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise RecipeError(f"is not YAML: {getattr(error, 'problem', error)}", where=where) from None
    if not isinstance(data, dict):
        raise RecipeError("holds no keys", where=str(file), fix="`penala recipe init` writes a commented recipe")
    lines: dict[str, int] = {}
    try:
        _collect_lines(root, "", lines, file)
    except RecursionError:
        raise RecipeError("holds itself by an alias, or is nested too deep", where=str(file)) from None
    return data, lines


def _collect_lines(node: Any, prefix: str, lines: dict[str, int], file: Path) -> None:
    """Note the line of each key. Raises RecipeError for one that stands twice, of which YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path, line = f"{prefix}.{key.value}".lstrip("."), key.start_mark.line + 1
            if path in lines:
                what = f"{path} stands in line {lines[path]} already"
                raise RecipeError(what, where=f"{file}:{line}", fix="keep one of them")
            lines[path] = line
            _collect_lines(value, path, lines, file)


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError("is not KEY=VALUE", where=f"--set {override}", fix="for example --set finetuning.lora_r=8")
    *parents, last = key.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise RecipeError(f"{parent} holds no keys", where=f"--set {override}")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        value = text
    # a version is text, and a shell has eaten the quotes that would say so
    data[last] = text if key.strip() == "model.version" and value is not None else value


def _plain(error: ErrorDetails) -> RecipeError:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _fields(location[:-1])
        if key in finetuning_inputs():
            return RecipeError("unknown key", where=key, fix=f"did you mean 'finetuning.{key}'?")
        return RecipeError("unknown key", where=key, fix=near(location[-1], known) or f"known here: {', '.join(known)}")
    if error["type"] == "missing":
        return RecipeError("is missing", where=key, fix=f"{location[0]} needs it" if len(location) > 1 else "add it")
    if error["type"] == "string_type" and not isinstance(error["input"], dict | list | None):
        is_share = key in ("conversations.validation", "conversations.test")
        fix = "a share of train is written 10%, and no such rows none" if is_share else "put it into quotes"
        return RecipeError(f"is {error['input']}, which is no text in YAML", where=key, fix=fix)
    if error["type"] == "model_type":
        fix = f"write its keys below it, indented: {', '.join(_fields(location))}"
        return RecipeError(f"is {error['input']!r}, and holds no keys", where=key, fix=fix)
    if error["type"] == "string_pattern_mismatch":
        fix = f"use {_IN_WORDS[error['ctx']['pattern']]}"
        return RecipeError(f"is {error['input']!r}, which is no such name", where=key, fix=fix)
    message = str(error.get("ctx", {}).get("error") or error["msg"])
    what, _, fix = message.partition("; ")
    shown = "" if isinstance(error["input"], dict) else f" (it is {error['input']!r})"
    return RecipeError(what[:1].lower() + what[1:] + ("" if fix else shown), where=key or None, fix=fix or None)


def _fields(location: Sequence[str]) -> list[str]:
    model: Any = Recipe
    for part in location:
        annotation = model.model_fields[part].annotation
        kinds = [annotation, *getattr(annotation, "__args__", ())]  # X | None holds X as an argument
        model = next(kind for kind in kinds if hasattr(kind, "model_fields"))
    return [field.alias or name for name, field in model.model_fields.items()]


def _located(problem: RecipeError, file: Path, lines: Mapping[str, int]) -> RecipeError:
    key = problem.where or ""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    where = f"{file}:{lines[key]}" if key else str(file)
    return RecipeError(problem.what, where=f"{where}: {problem.where}" if problem.where else where, fix=problem.fix)


def _joined(problems: Sequence[RecipeError]) -> RecipeError:
    if len(problems) == 1:
        return problems[0]
    return RecipeError("\n".join([f"{len(problems)} problems", *(f"  {problem}" for problem in problems)]))


# --- the schema for editors


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, with every fine-tuning input, its limits and its default."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "penala recipe"
    schema["properties"]["finetuning"] = {
        "type": "object",
        "description": "Inputs of Azure ML's chat_completion_pipeline, letter for letter",
        "additionalProperties": False,
        "properties": {name: _property(spec) for name, spec in finetuning_inputs().items()},
    }
    return schema


def _property(spec: InputSpec) -> dict[str, Any]:
    default = OUR_DEFAULTS.get(spec.name, spec.default)
    entry: dict[str, Any] = {"description": spec.description}
    if default is not None:
        entry["default"] = default
    if spec.enum == ("true", "false"):
        entry["enum"] = [True, False, "true", "false"]
    elif spec.enum:
        numbers = [int(value) for value in spec.enum if value.isdigit()]
        entry["enum"] = [*spec.enum, *numbers]
    else:
        entry["type"] = [spec.type, "string"] if spec.type != "string" else "string"
    if spec.minimum is not None:
        entry["minimum"] = spec.minimum
    return entry
