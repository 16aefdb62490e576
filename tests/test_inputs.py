"""The components as data: Azure's inputs, letter for letter, and ours beside them."""

import pytest

from penala.errors import RecipeError
from penala.inputs import PIPELINE, InputSpec, component_inputs, component_spec

OURS = {
    "catalogue_model", "conversation_schema", "column_mapping", "validation_split", "test_split", "on_bad_row",
    "on_too_long", "train_on", "train_tool_calls", "forgetting_file_path", "learning_rate_min", "learning_rate_max",
}  # fmt: skip
STEPS = component_spec(PIPELINE)["jobs"]


def test_the_pipeline_has_azures_69_inputs_and_ours_are_optional():
    """Nothing of the contract is missing, and a document written for Azure needs none of ours."""
    inputs = component_inputs(PIPELINE)

    assert len(set(inputs) - OURS) == 69
    assert all(inputs[name].optional for name in OURS)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("apply_lora", "false"), ("lora_r", 8), ("lora_alpha", 128), ("learning_rate", 2e-5), ("precision", "32"),
        ("deepspeed_stage", "2"), ("save_total_limit", -1), ("max_seq_length", -1), ("batch_size", 1000),
        ("instance_type_finetune", "Standard_nc24rs_v3"), ("compute_finetune", "serverless"), ("adam_epsilon", 1e-8),
    ],
)  # fmt: skip
def test_defaults_are_azures(name, default):
    """The YAML keeps Azure's defaults; penala's own are the recipe's matter."""
    assert component_inputs(PIPELINE)[name].default == default


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_step_declares_what_the_pipeline_wires_to_it_with_the_same_default(step):
    """An input has one type, one default and one list of choices, in the pipeline and in the step."""
    declared = component_inputs(step)
    assert set(STEPS[step]["inputs"]) <= set(declared)

    for name, spec in component_inputs(PIPELINE).items():
        if name in declared and name != "task_name" and f"inputs.{name}}}" in str(STEPS[step]["inputs"].get(name)):
            assert (spec.type, spec.default, spec.enum) == (
                declared[name].type,
                declared[name].default,
                declared[name].enum,
            )


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_step_hands_every_input_and_output_to_its_command(step):
    """What a component accepts, its command gets."""
    spec = component_spec(step)

    for name in spec["inputs"]:
        assert f"--{name} ${{{{inputs.{name}}}}}" in spec["command"]
    for name in spec["outputs"]:
        assert f"--{name} ${{{{outputs.{name}}}}}" in spec["command"]


@pytest.mark.parametrize(
    ("kind", "given", "parsed"),
    [
        ("integer", "8", 8), ("integer", 8.0, 8), ("integer", "12345678901234567890", 12345678901234567890),
        ("number", "5e-6", 5e-6), ("string", True, "True"), ("string", 2, "2"), ("boolean", "TRUE", True),
        ("boolean", 1, True), ("boolean", 0.0, False), ("boolean", False, False),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml_and_tags_write_them(kind, given, parsed):
    """A tag's '5e-6', a YAML true and the integer 2 for a string all mean what their author meant."""
    assert InputSpec("x", kind).parse(given) == parsed


def test_a_yaml_true_is_the_choice_true():
    """Azure's components write their booleans as strings with the choices "true" and "false"."""
    assert InputSpec("x", "string", enum=("true", "false")).parse(True) == "true"
    assert InputSpec("x", "string", enum=("True", "False")).parse(True) == "True"


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        ("number", "5e-6", "5e-6"), ("number", 1, "1"), ("number", 1.5, "1.5"), ("integer", 3.0, "3"),
        ("boolean", True, "True"), ("boolean", "false", "False"), ("string", "a b", "a b"),
    ],
)  # fmt: skip
def test_a_command_gets_numbers_as_they_were_written(kind, given, text):
    """What Azure would hand on: Python's True, and an integer without a point where a number is asked for."""
    assert InputSpec("x", kind).text(given) == text


@pytest.mark.parametrize(
    ("spec", "given", "message"),
    [
        (InputSpec("x", "number", maximum=1.0), 2, "is 2.0; use 1 or less"),
        (InputSpec("x", "boolean"), "maybe", "use true or false"),
        (InputSpec("x", "integer", enum=("1", "2")), 3, "use 1, 2"),
    ],
)
def test_values_outside_their_limits_are_refused(spec, given, message):
    """Maximum, boolean, and choices of numbers."""
    with pytest.raises(RecipeError, match=message):
        spec.parse(given)


@pytest.mark.parametrize("given", ["eight", 1.5, None, True])
def test_what_is_no_whole_number_is_refused(given):
    """No silent rounding, and true is not 1."""
    with pytest.raises(RecipeError, match="use a whole number"):
        InputSpec("lora_r", "integer").parse(given)
