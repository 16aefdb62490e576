"""Toy pipelines of real processes: each step is a Python script that gets its arguments as name=value."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from penala.workspace.client import Workspace
from penala.workspace.components import PipelineComponent, read_pipeline
from penala.workspace.plan import Plan
from penala.workspace.planner import make_plan

PREAMBLE = """
import json, os, sys, time
args = dict(text.split("=", 1) for text in sys.argv[1:])
def event(**fields):
    with open(os.environ["PENALA_EVENTS"], "a") as file:
        file.write(json.dumps(fields) + "\\n")
"""
MakePipeline = Callable[..., PipelineComponent]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "ws", create=True) as opened:
        yield opened


@pytest.fixture
def make_pipeline(tmp_path: Path) -> MakePipeline:
    """Write a pipeline of scripts: name -> {script, inputs, bind, outputs, ...}, and read it as a component."""

    def make(inputs: Mapping[str, Any], outputs: Mapping[str, str], **steps: Mapping[str, Any]) -> PipelineComponent:
        folder = tmp_path / "components"
        folder.mkdir(exist_ok=True)
        for name, step in steps.items():
            _write_command(folder, name, **{key: value for key, value in step.items() if key != "bind"})
        document = {
            "type": "pipeline",
            "name": "toy",
            "version": "1",
            "display_name": "Toy",
            "inputs": dict(inputs),
            "outputs": {name: {"type": "uri_folder"} for name in outputs},
            "jobs": {name: _job(name, step, outputs) for name, step in steps.items()},
        }
        (folder / "toy.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return read_pipeline(folder / "toy.yaml")

    return make


def _job(name: str, step: Mapping[str, Any], outputs: Mapping[str, str]) -> dict[str, Any]:
    bound = {
        source.split(".")[1]: f"${{{{parent.outputs.{output}}}}}"
        for output, source in outputs.items()
        if source.split(".")[0] == name
    }
    return {"type": "command", "component": f"./{name}.yaml", "inputs": step.get("bind", {}), "outputs": bound}


def _write_command(
    folder: Path,
    name: str,
    script: str = "",
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, str] | None = None,
    command: str | None = None,
    **more: Any,
) -> None:
    inputs, outputs = inputs or {}, outputs or {"out": "uri_folder"}
    (folder / f"{name}.py").write_text(PREAMBLE + textwrap.dedent(script))
    words = ["python -I -S", str(folder / f"{name}.py")]
    for key, spec in inputs.items():
        word = f"{key}=${{{{inputs.{key}}}}}"
        words.append(f"$[[{word}]]" if spec.get("optional") else word)
    words += [f"{key}=${{{{outputs.{key}}}}}" for key in outputs]
    document = {
        "type": "command",
        "name": name,
        "version": "1",
        "inputs": dict(inputs),
        "outputs": {key: {"type": kind} for key, kind in outputs.items()},
        "command": command or " ".join(words),
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


WRITE = """
text = args.get("text", "nothing")
open(args["out"] + "/text", "w").write(text)
event(event="progress", done=1, total=1, unit="rows")
event(event="figures", figures={"letters": len(text)})
"""
JOIN = """
text = open(args["source"] + "/text").read()
open(args["out"] + "/text", "w").write(text.upper())
print("joined", text)
"""


@pytest.fixture
def two_steps(make_pipeline: MakePipeline) -> Callable[..., Plan]:
    """Plan `write` (text -> folder) and `join` (folder -> folder, in capitals)."""

    def plan(text: str = "hello", **changes: Any) -> Plan:
        pipeline = make_pipeline(
            {"text": {"type": "string"}},
            {"result": "join.out"},
            write={
                "script": changes.get("write", WRITE),
                "inputs": {"text": {"type": "string"}},
                "bind": {"text": "${{parent.inputs.text}}"},
                **changes.get("write_more", {}),
            },
            join={
                "script": changes.get("join", JOIN),
                "inputs": {"source": {"type": "uri_folder"}},
                "bind": {"source": "${{parent.jobs.write.outputs.out}}"},
                **changes.get("join_more", {}),
            },
        )
        return make_plan(pipeline, {"text": text}, folder=pipeline.file.parent)

    return plan


def read_text(folder: Path | None) -> str:
    """Return what a toy step wrote."""
    assert folder is not None
    return (folder / "text").read_text()


def dump(value: Any) -> str:
    """Return a value as readable JSON, for assertion messages."""
    return json.dumps(value, indent=2, default=str)
