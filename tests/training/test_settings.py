"""The inputs of the fine-tuning component as settings."""

import pytest

from penala.errors import RecipeError, TrainingError
from penala.training.settings import FinetuneSettings


def test_text_becomes_values():
    """Tags and command lines write numbers and booleans as text."""
    settings = FinetuneSettings.from_inputs({"learning_rate": "5e-6", "apply_deepspeed": "true", "lora_r": "4"})

    assert (settings.learning_rate, settings.apply_deepspeed, settings.lora_r) == (5e-6, True, 4)


@pytest.mark.parametrize(
    ("inputs", "batch", "steps"),
    [
        ({"per_device_train_batch_size": 8}, 8, 13),
        ({"per_device_train_batch_size": 1, "number_of_gpu_to_use_finetuning": 8}, 8, 13),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_train_epochs": 3}, 8, 39),
        ({"per_device_train_batch_size": 8, "max_steps": 5}, 8, 5),
    ],
)
def test_the_effective_batch_is_that_of_all_devices(inputs, batch, steps):
    """Per-device batch x GPUs x nodes x accumulation conversations make a step, whatever runs them."""
    settings = FinetuneSettings.from_inputs(inputs)

    assert settings.effective_batch == batch
    assert settings.num_steps(100) == steps


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"learning_rate": 0}, TrainingError, "learning_rate: is 0.0; use a number above 0"),
        ({"lora_r": 0}, TrainingError, "lora_r: is 0; use 1 or more"),
        ({"lora_dropout": 1.0}, TrainingError, "lora_dropout: is 1.0"),
        ({"lr_scheduler_type": "banana"}, RecipeError, "use linear, cosine"),
    ],
)
def test_what_cannot_train_is_refused_by_name(inputs, error, message):
    """The message starts with the input."""
    with pytest.raises(error, match=message):
        FinetuneSettings.from_inputs(inputs)
