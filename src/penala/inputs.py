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
LITERAL_TYPES = frozenset({"string", "integer", "number", "boolean"})
_WHOLE = re.compile(r"[+-]?\d+")
_WIRE = re.compile(r"\$\{\{parent\.inputs\.(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a component in Azure ML's schema; no default is None, no limit is an empty `enum`."""

    name: str
    type: str
    default: Any = None
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False
    description: str = ""

    @property
    def is_data(self) -> bool:
        """Whether the value is a file, a folder or a model, not a literal."""
        return self.type in DATA_TYPES

    def parse(self, value: Any, *, where: str | None = None) -> Any:
        """Return `value` as this input's type; a YAML true is the choice "true", and text holds numbers such as 5e-6.

        Raises RecipeError that names the input, the value and what is allowed.
        """
        where = where or self.name
        if self.type == "integer":
            parsed: Any = _integer(value, where)
        elif self.type == "number":
            parsed = _number(value, where)
        elif self.type == "boolean":
            parsed = _boolean(value, where)
        else:
            parsed = self._text(value)
        if self.enum and _text(parsed) not in self.enum:
            hint = near(_text(parsed), self.enum)
            fix = f"use {', '.join(self.enum)}" + (f"; {hint}" if hint else "")
            raise RecipeError(f"is {parsed!r}", where=where, fix=fix)
        if self.minimum is not None and parsed < self.minimum:
            raise RecipeError(f"is {parsed}", where=where, fix=f"use {self.minimum:g} or more")
        if self.maximum is not None and parsed > self.maximum:
            raise RecipeError(f"is {parsed}", where=where, fix=f"use {self.maximum:g} or less")
        return parsed

    def text(self, value: Any, *, where: str | None = None) -> str:
        """Return what a command gets for `value`: as `parse` takes it, a number as it was written."""
        parsed = self.parse(value, where=where)
        if self.type == "number" and isinstance(value, str | int):
            return str(value).strip()
        return _text(parsed)

    def _text(self, value: Any) -> str:
        """Return a value of a string input. A YAML true stands for the "true" of the choices, where they have it."""
        text = _text(value)
        if self.enum and text not in self.enum and text in ("True", "False"):
            return text.lower()
        return text


def _text(value: Any) -> str:
    """Return a value as Azure ML hands it to a command: what Python prints, so True for a YAML true."""
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
        number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else _number(value, where)
        if number == int(number):
            return int(number)
    except (RecipeError, ValueError, OverflowError):  # no number; not a number; infinity
        pass
    raise RecipeError(f"is {value!r}", where=where, fix="use a whole number")


def _boolean(value: Any, where: str) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "1", "1.0"):  # the SDK writes a boolean as 1 or 0
        return True
    if text in ("false", "0", "0.0"):
        return False
    raise RecipeError(f"is {value!r}", where=where, fix="use true or false")


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
    kind = str(declared.get("type", "string"))
    limits = declared if kind in ("integer", "number") else {}
    low, high = limits.get("min"), limits.get("max")
    return InputSpec(
        name=name,
        type=kind,
        default=declared.get("default"),
        enum=tuple(_text(value) for value in declared.get("enum") or ()),
        minimum=None if low is None else float(low),
        maximum=None if high is None else float(high),
        optional=bool(declared.get("optional", False)),
        description=str(declared.get("description", "")),
    )


@cache
def used_inputs() -> frozenset[str]:
    """Return the pipeline inputs that some step takes; every other one can only keep its default."""
    return frozenset(_WIRE.findall(json.dumps(component_spec(PIPELINE)["jobs"])))
