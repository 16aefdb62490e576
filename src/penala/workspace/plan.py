"""The plan of a job: every step with all that goes into it, checked before the first process starts.

A plan is plain data. It is stored with its job, so that whoever carries it on needs neither YAML nor the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from penala.workspace.artifacts import digest

ARTIFACTS = "artifacts"  # the output that every command of Azure ML has


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that the command gets as text."""

    text: str


@dataclass(frozen=True, slots=True)
class File:
    """A file or folder of the user's, with the digest that it had when the plan was made."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """An output of an earlier step."""

    step: str
    output: str


Value: TypeAlias = Literal | File | Upstream


@dataclass(frozen=True, slots=True)
class Step:
    """One command with all that goes into it; `outputs` maps each name to its type."""

    name: str
    display_name: str
    component: str
    version: str
    code: str  # digest of the code that the command runs
    command: str  # template, see `commands.render`
    environment: str
    inputs: Mapping[str, Value]
    outputs: Mapping[str, str]
    deterministic: bool = True
    resumable: bool = False  # a later attempt finds what an earlier one wrote into the outputs
    exclusive: bool = False  # runs alone: it uses every core
    source: str | None = None  # artifact of the code folder that the command's working folder is a copy of
    variables: Mapping[str, str] = field(default_factory=dict)  # of the environment
    processes: int = 0  # that `distribution: pytorch` starts on each node; 0: the command is started as it is
    nodes: int = 1
    timeout_s: float | None = None
    gathers: bool = False  # its output ARTIFACTS, which it did not declare, is what ./outputs and ./logs hold


@dataclass(frozen=True, slots=True)
class Plan:
    """A job before it starts: `steps` in an order in which they can run. A command job is a plan of one step."""

    name: str
    version: str
    display_name: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Upstream]
    kind: str = "pipeline"  # or command, finetuning
    slots: int = 1  # steps that may run side by side
    continue_on_step_failure: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, for the job's row."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote."""
        steps = tuple(
            Step(**{**step, "inputs": {name: _value(given) for name, given in step["inputs"].items()}})
            for step in value["steps"]
        )
        outputs = {name: Upstream(**given) for name, given in value["outputs"].items()}
        return cls(**{**value, "steps": steps, "outputs": outputs})

    @property
    def digest(self) -> str:
        """Identity of the plan: the same components with the same inputs, files by content."""
        return digest(["plan/1", self.to_json()])

    def output_type(self, name: str) -> str:
        """Return the type of one of the pipeline's outputs."""
        bound = self.outputs[name]
        return next(step.outputs[bound.output] for step in self.steps if step.name == bound.step)


def _value(given: Mapping[str, str]) -> Value:
    kind = Literal if "text" in given else File if "path" in given else Upstream
    return kind(**given)


def feeders(step: Step) -> set[str]:
    """Return the names of the steps whose outputs a step takes."""
    return {value.step for value in step.inputs.values() if isinstance(value, Upstream)}
