"""The inputs of the components, read from components/*.yaml: they are written down once, there."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from penala.errors import RecipeError, near

PIPELINE = "chat_completion_pipeline"
DATA_TYPES = frozenset({"uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"})
_WIRE = re.compile(r"\$\{\{parent\.inputs\.(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a component in Azure ML's schema; no default is None, no limit is an empty `enum`."""

    name: str
    type: str
    default: Any = None
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    optional: bool = False
    description: str = ""

    @property
    def is_data(self) -> bool:
        """Whether the value is a file, a folder or a model, not a literal."""
        return self.type in DATA_TYPES

    def parse(self, value: Any, *, where: str | None = None) -> Any:
        """Return `value` as this input's type; a YAML true equals "true", and text holds numbers such as 5e-6.

        Raises RecipeError that names the input, the value and what is allowed.
        """
        where = where or self.name
        if self.type == "integer":
            parsed: Any = _integer(value, where)
        elif self.type == "number":
            parsed = _number(value, where)
        else:
            parsed = _text(value)
        if self.enum and parsed not in self.enum:
            fix = f"use {', '.join(self.enum)}. {near(parsed, self.enum)}"
            raise RecipeError(f"is {parsed!r}", where=where, fix=fix.strip())
        if self.minimum is not None and parsed < self.minimum:
            raise RecipeError(f"is {parsed}", where=where, fix=f"use {self.minimum:g} or more")
        return parsed


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise RecipeError(f"is {value!r}", where=where, fix="use a number") from None


def _integer(value: Any, where: str) -> int:
    try:
        number = _number(value, where)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, fix="use a whole number") from None
    if not number.is_integer():
        raise RecipeError(f"is {value!r}", where=where, fix="use a whole number")
    return int(number)


@cache
def component_spec(name: str) -> Mapping[str, Any]:
    """Return the YAML of a component that penala ships, as it stands."""
    text = (files("penala.components") / f"{name}.yaml").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


@cache
def component_inputs(name: str) -> dict[str, InputSpec]:
    """Return the declared inputs of a component, in the order of its YAML."""
    return {key: input_spec(key, declared) for key, declared in component_spec(name)["inputs"].items()}


def input_spec(name: str, declared: Mapping[str, Any]) -> InputSpec:
    """Read one entry of a component's `inputs`."""
    return InputSpec(
        name=name,
        type=str(declared.get("type", "string")),
        default=declared.get("default"),
        enum=tuple(_text(value) for value in declared.get("enum", ())),
        minimum=declared.get("min"),
        optional=bool(declared.get("optional", False)),
        description=str(declared.get("description", "")),
    )


@cache
def used_inputs() -> frozenset[str]:
    """Return the pipeline inputs that some step takes; every other one can only keep its default."""
    return frozenset(_WIRE.findall(json.dumps(component_spec(PIPELINE)["jobs"])))
