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
    [("integer", "8", 8), ("integer", 8.0, 8), ("number", "5e-6", 5e-6), ("string", True, "true"), ("string", 2, "2")],
)
def test_values_are_read_as_yaml_and_tags_write_them(kind, given, parsed):
    """A tag's '5e-6', a YAML true and the integer 2 for a string all mean what their author meant."""
    assert InputSpec("x", kind).parse(given) == parsed


@pytest.mark.parametrize("given", ["eight", 1.5, None, True])
def test_what_is_no_whole_number_is_refused(given):
    """No silent rounding, and true is not 1."""
    with pytest.raises(RecipeError, match="use a whole number"):
        InputSpec("lora_r", "integer").parse(given)
