"""The components as data: Azure's inputs, letter for letter, and ours beside them."""

import pytest

from penala.errors import RecipeError
from penala.inputs import PIPELINE, InputSpec, component_inputs, component_spec, input_spec

OURS = {
    "catalogue_model", "conversation_schema", "column_mapping", "validation_split", "test_split", "on_bad_row",
    "on_too_long", "train_on", "train_tool_calls", "forgetting_file_path", "learning_rate_min", "learning_rate_max",
}  # fmt: skip
STEPS = component_spec(PIPELINE)["jobs"]


def test_ours_are_optional():
    """A document written for Azure needs none of them."""
    inputs = component_inputs(PIPELINE)

    assert all(inputs[name].optional for name in OURS)


# Azure ML's chat_completion_pipeline 0.0.82, one input a line: name, type, its default ("-": none), its least value
# (>=) and its choices (|). Every one but task_name is optional.
CONTRACT = """
instance_type_model_import string Standard_d12_v2
instance_type_preprocess string Standard_d12_v2
instance_type_finetune string Standard_nc24rs_v3
instance_type_model_evaluation string Standard_nc24rs_v3
shm_size_finetune string 5g
num_nodes_finetune integer 1 >=1
number_of_gpu_to_use_finetuning integer 1 >=1
huggingface_id string -
pytorch_model_path custom_model -
mlflow_model_path mlflow_model -
finetune_config_path uri_file -
trust_remote_code string false true|false
task_name string ChatCompletion ChatCompletion
batch_size integer 1000 >=1
pad_to_max_length string false true|false
max_seq_length integer -1
train_file_path uri_file -
validation_file_path uri_file -
test_file_path uri_file -
train_mltable_path mltable -
validation_mltable_path mltable -
test_mltable_path mltable -
apply_lora string false true|false
merge_lora_weights string true true|false
lora_alpha integer 128
lora_r integer 8
lora_dropout number 0.0
num_train_epochs integer 1 >=1
max_steps integer -1
per_device_train_batch_size integer 1 >=1
per_device_eval_batch_size integer 1 >=1
auto_find_batch_size string false true|false
optim string adamw_torch adamw_torch|adafactor
learning_rate number 2e-05
warmup_steps integer 0
weight_decay number 0.0
adam_beta1 number 0.9
adam_beta2 number 0.999
adam_epsilon number 1e-08
gradient_accumulation_steps integer 1
eval_accumulation_steps integer -1
lr_scheduler_type string linear linear|cosine|cosine_with_restarts|polynomial|constant|constant_with_warmup
precision string 32 32|16
seed integer 42
enable_full_determinism string false true|false
dataloader_num_workers integer 0
ignore_mismatched_sizes string false true|false
max_grad_norm number 1.0
evaluation_strategy string epoch epoch|steps|disable
evaluation_steps_interval number 0.0
eval_steps integer 500
logging_strategy string steps epoch|steps
logging_steps integer 10
metric_for_best_model string loss loss|f1|exact
resume_from_checkpoint string false true|false
save_total_limit integer -1
apply_early_stopping string false true|false
early_stopping_patience integer 1
early_stopping_threshold number 0.0
apply_deepspeed string false true|false
deepspeed uri_file -
deepspeed_stage string 2 2|3
apply_ort string false true|false
evaluation_config uri_file -
evaluation_config_params string -
compute_model_import string serverless
compute_preprocess string serverless
compute_finetune string serverless
compute_model_evaluation string serverless
"""


@pytest.mark.parametrize("line", CONTRACT.strip().splitlines(), ids=lambda line: line.split()[0])
def test_an_input_is_letter_for_letter_azures(line):
    """Name, type, default, limits and choices are those of the contract."""
    name, kind, default, *limits = line.split()
    spec = component_inputs(PIPELINE)[name]

    assert spec.type == kind
    assert spec.default == (None if default == "-" else spec.parse(default))
    assert spec.minimum == next((float(limit[2:]) for limit in limits if limit.startswith(">=")), None)
    assert set(spec.enum) == next((set(limit.split("|")) for limit in limits if not limit.startswith(">=")), set())
    assert spec.optional == (name != "task_name")


def test_the_contract_is_all_of_azures_inputs_and_outputs():
    """69 inputs and three outputs, evaluation_result among them, which Azure has commented out."""
    named = {line.split()[0] for line in CONTRACT.strip().splitlines()}

    assert len(named) == 69
    assert named == set(component_inputs(PIPELINE)) - OURS
    assert {name: declared["type"] for name, declared in component_spec(PIPELINE)["outputs"].items()} == {
        "pytorch_model_folder": "uri_folder",
        "mlflow_model_folder": "mlflow_model",
        "evaluation_result": "uri_folder",
    }


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


def test_limits_are_numbers_and_of_numbers_only():
    """The SDK writes them as text; of a string they mean nothing."""
    assert input_spec("x", {"type": "number", "min": "0.5", "max": "2"}).maximum == 2.0
    assert input_spec("x", {"type": "string", "min": 1}).parse("a") == "a"


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
