"""Components and plans: what is read from YAML, and everything that is refused before a process starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penala.errors import NotFound, RecipeError, UsageError
from penala.workspace.components import PipelineComponent, read_component, read_pipeline, shipped_pipeline
from penala.workspace.plan import File, Literal, Plan, Upstream
from penala.workspace.planner import make_plan

from .conftest import MakePipeline

NUMBERS = {
    "count": {"type": "integer", "min": 1, "default": 2, "optional": True},
    "rate": {"type": "number", "default": 2.0e-05, "optional": True},
    "kind": {"type": "string", "enum": ["linear", "cosine"], "default": "linear", "optional": True},
    "flag": {"type": "string", "enum": ["true", "false"], "optional": True},
    "data": {"type": "uri_file"},
    "extra": {"type": "uri_file", "optional": True},
}


@pytest.fixture
def numbers(make_pipeline: MakePipeline, tmp_path: Path) -> Callable[..., Plan]:
    """Plan one step that takes inputs of every kind; its data file exists."""
    (tmp_path / "data.jsonl").write_text("{}")
    pipeline = make_pipeline(
        NUMBERS,
        {"result": "only.out"},
        only={"inputs": NUMBERS, "bind": {name: f"${{{{parent.inputs.{name}}}}}" for name in NUMBERS}},
    )
    return lambda **inputs: make_plan(pipeline, {"data": "data.jsonl", **inputs}, folder=tmp_path)


def test_inputs_become_text_files_and_outputs(two_steps: Callable[..., Plan]) -> None:
    """A literal, an upstream output and the pipeline's output are resolved; the steps stand in order."""
    plan = two_steps("hello")

    assert [step.name for step in plan.steps] == ["write", "join"]
    assert plan.steps[0].inputs == {"text": Literal("hello")}
    assert plan.steps[1].inputs == {"source": Upstream("write", "out")}
    assert plan.outputs == {"result": Upstream("join", "out")}


def test_a_plan_survives_json(numbers: Callable[..., Plan]) -> None:
    """What is stored with a job is the plan, to the last value."""
    plan = numbers(count=3)

    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_defaults_are_given_and_optional_inputs_left_out(numbers: Callable[..., Plan], tmp_path: Path) -> None:
    """A default counts as given; an optional input without one is absent; numbers are written as Python does."""
    inputs = dict(numbers(flag=True).steps[0].inputs)
    data = inputs.pop("data")

    assert isinstance(data, File)
    assert data.path == str(tmp_path / "data.jsonl")
    assert inputs == {
        "count": Literal("2"),
        "rate": Literal("2e-05"),
        "kind": Literal("linear"),
        "flag": Literal("true"),
    }


def test_the_digest_of_a_plan_is_by_content(numbers: Callable[..., Plan], tmp_path: Path) -> None:
    """It moves with a value and with a row of data, and not with a second look."""
    first = numbers().digest

    assert numbers().digest == first
    assert numbers(count=3).digest != first
    (tmp_path / "data.jsonl").write_text("{} ")
    assert numbers().digest != first


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"cuont": 3}, "toy: inputs.cuont: 'toy' has no input 'cuont'; did you mean 'count'"),
        ({"count": "three"}, "toy: inputs.count: is 'three'; use a whole number"),
        ({"count": 0}, "toy: inputs.count: is 0; use 1 or more"),
        ({"rate": "fast"}, "toy: inputs.rate: is 'fast'; use a number"),
        ({"kind": "cosin"}, "toy: inputs.kind: is 'cosin'; use linear, cosine"),
        ({"kind": "a\0b"}, "toy: inputs.kind"),
        ({"data": "dota.jsonl"}, r"toy: inputs.data: there is no .*dota.jsonl"),
        ({"data": "azureml:data:1"}, "give the path of a local file"),
        ({"extra": 3}, "toy: inputs.extra: is 3; give the path"),
    ],
)
def test_wrong_inputs_are_refused(numbers: Callable[..., Plan], inputs: dict[str, Any], message: str) -> None:
    """Name, type, limits and files are checked, and the message says which input and how to mend it."""
    with pytest.raises((UsageError, RecipeError), match=message) as refused:
        numbers(**inputs)
    assert refused.value.exit_code == 2


def test_a_missing_required_input_is_named(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """On the pipeline, and on a step whose pipeline input is optional."""
    text = {"text": {"type": "string"}}
    step = {"inputs": text, "bind": {"text": "${{parent.inputs.text}}"}}
    strict = make_pipeline(text, {}, only=step)
    with pytest.raises(UsageError, match=r"toy: inputs.text: needs a value"):
        make_plan(strict, {}, folder=tmp_path)

    loose = make_pipeline({"text": {"type": "string", "optional": True}}, {}, only=step)
    with pytest.raises(UsageError, match=r"jobs.only.inputs.text: needs a value; give the pipeline's input 'text' one"):
        make_plan(loose, {}, folder=tmp_path)


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ({"source": "${{parent.jobs.frist.outputs.out}}"}, "no job 'frist'; did you mean 'first'"),
        ({"source": "${{parent.jobs.first.outputs.oot}}"}, "no output 'oot'; did you mean 'out'"),
        ({"source": "${{parent.inputs.nothing}}"}, "no input 'nothing'"),
        ({"source": "${{parent.elsewhere}}"}, "use "),
        ({"sorce": "x", "source": "."}, "has no input 'sorce'; did you mean 'source'"),
        ({}, "jobs.second.inputs.source: needs a value"),
    ],
)
def test_wrong_bindings_are_refused(make_pipeline: MakePipeline, bind: dict[str, str], message: str) -> None:
    """A binding to what is not there names it and what is near."""
    pipeline = make_pipeline({}, {}, first={}, second={"inputs": {"source": {"type": "uri_folder"}}, "bind": bind})

    with pytest.raises(UsageError, match=message):
        make_plan(pipeline, {}, folder=pipeline.file.parent)


def test_steps_are_put_in_order_and_cycles_refused(make_pipeline: MakePipeline) -> None:
    """A step comes after its feeders however the YAML orders them; two that feed each other never run."""
    source = {"source": {"type": "uri_folder", "optional": True}}

    def chain(**bound: str) -> PipelineComponent:
        steps = {
            name: {"inputs": source, "bind": {"source": f"${{{{parent.jobs.{feeder}.outputs.out}}}}"} if feeder else {}}
            for name, feeder in bound.items()
        }
        return make_pipeline({}, {}, **steps)

    ordered = make_plan(chain(last="middle", middle="first", first=""), {}, folder=Path())
    assert [step.name for step in ordered.steps] == ["first", "middle", "last"]
    with pytest.raises(UsageError, match="the jobs middle, last wait for one another"):
        make_plan(chain(first="", middle="last", last="middle"), {}, folder=Path())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r":\d+: is not YAML"),
        ("just text", "is not a component"),
        ("type: pipeline\nname: x", "is a component of type pipeline; give one of type command"),
        ("type: sweep", "is of type sweep, which this workspace does not run"),
        ("type: command\ncommand: ls", "has no name"),
        ("type: command\nname: x", "there is no command"),
        ("type: command\nname: x\ninputs: []\ncommand: ls", None),
        ("type: command\nname: x\ninputs: [a]\ncommand: ls", "inputs: is not a mapping"),
        ("type: command\nname: x\ninputs: {a: 1}\ncommand: ls", r"inputs.a: is not a mapping"),
        ("type: command\nname: x\ncommand: ls ${{inputs.a}}", "uses inputs.a, which is not declared"),
        ("type: command\nname: x\ncommand: ls ${{inputs}}", r"the command uses \${{inputs}}; a command may use"),
    ],
)
def test_a_component_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str | None) -> None:
    """Each message names the file and what to write."""
    file = tmp_path / "component.yaml"
    file.write_text(text)
    if message is None:
        assert read_component(file, "command").name == "x"
        return

    with pytest.raises(UsageError, match=message) as refused:
        read_component(file, "command")
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            "{type: sweep}",
            r"jobs.x: is of type sweep, which this workspace does not run; only command and pipeline jobs run",
        ),
        ("{component: 'azureml:x:1'}", r"jobs.x.component: is the component azureml:x:1; name a component's YAML file"),
        ("{component: ./none.yaml}", "there is no such component file"),
        ("text", r"jobs.x: is not a mapping"),
    ],
)
def test_a_pipeline_that_cannot_be_run_is_refused(tmp_path: Path, job: str, message: str) -> None:
    """What is out of scope is named, with its job."""
    (tmp_path / "p.yaml").write_text(f"type: pipeline\nname: p\njobs: {{x: {job}}}")

    with pytest.raises(UsageError, match=message):
        read_pipeline(tmp_path / "p.yaml")


def test_our_own_pipeline_can_be_planned(tmp_path: Path) -> None:
    """The shipped fine-tuning pipeline: six steps, resumable training, its code part of its identity."""
    (tmp_path / "train.jsonl").write_text("{}")
    inputs = {"train_file_path": "train.jsonl", "catalogue_model": "SmolLM2-135M-Instruct", "lora_r": 4}
    plan = make_plan(shipped_pipeline("chat_completion_pipeline"), inputs, folder=tmp_path)
    steps = {step.name: step for step in plan.steps}

    assert list(steps) == [
        "ft_nlp_common_validation",
        "chat_completion_model_import",
        "chat_completion_datapreprocess",
        "chat_completion_finetune",
        "chat_completion_evaluation",
        "ft_nlp_model_converter",
    ]
    assert [name for name, step in steps.items() if step.resumable] == ["chat_completion_finetune"]
    assert steps["chat_completion_finetune"].inputs["lora_r"] == Literal("4")
    assert set(plan.outputs) == {"pytorch_model_folder", "mlflow_model_folder", "evaluation_result"}
    assert {step.code for step in plan.steps} != {""}


def test_a_component_that_we_do_not_ship_is_named() -> None:
    """The near name is offered."""
    with pytest.raises(NotFound, match="no component 'chat_completion_pipelin'; did you mean"):
        shipped_pipeline("chat_completion_pipelin")
