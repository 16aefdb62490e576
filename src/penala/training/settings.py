"""What a fine-tuning run is told: the component's inputs as typed values, and the arithmetic of its batches."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from penala.errors import TrainingError
from penala.inputs import component_inputs
from penala.training.schedule import SchedulerType

COMPONENT = "chat_completion_finetune"


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """The inputs of the fine-tuning component under Azure's names; see components/chat_completion_finetune.yaml."""

    apply_lora: bool = True
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    num_train_epochs: int = 1
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    number_of_gpu_to_use_finetuning: int = 1
    num_nodes_finetune: int = 1
    learning_rate: float = 2e-4
    lr_scheduler_type: SchedulerType = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    precision: Literal["32", "16"] = "16"
    seed: int = 42
    evaluation_strategy: Literal["epoch", "steps", "disable"] = "epoch"
    eval_steps: int = 500
    logging_strategy: Literal["steps", "epoch"] = "steps"
    logging_steps: int = 10
    save_total_limit: int = -1
    apply_deepspeed: bool = False
    deepspeed_stage: str = "2"

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> "FinetuneSettings":
        """Read the component's inputs, as text or as typed values; what is missing or None keeps our default.

        Raises RecipeError for a value of the wrong type or outside its limits, TrainingError for one that cannot train.
        """
        specs = component_inputs(COMPONENT)
        values = {}
        for field in fields(cls):
            if inputs.get(field.name) is not None:
                parsed = specs[field.name].parse(inputs[field.name])
                values[field.name] = parsed == "true" if specs[field.name].enum == ("true", "false") else parsed
        return cls(**values)

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise TrainingError(f"is {self.learning_rate}", where="learning_rate", fix="use a number above 0")
        for name in ("lora_r", "gradient_accumulation_steps", "eval_steps", "logging_steps"):
            if getattr(self, name) < 1:
                raise TrainingError(f"is {getattr(self, name)}", where=name, fix="use 1 or more")
        if not 0 <= self.lora_dropout < 1:
            raise TrainingError(f"is {self.lora_dropout}", where="lora_dropout", fix="use a number from 0 to below 1")

    @property
    def num_devices(self) -> int:
        """The devices that were asked for; this process does the work of all."""
        return self.number_of_gpu_to_use_finetuning * self.num_nodes_finetune

    @property
    def effective_batch(self) -> int:
        """Conversations of one optimizer step: fewer devices than asked for accumulate more, so this stays the same."""
        return self.per_device_train_batch_size * self.num_devices * self.gradient_accumulation_steps

    @property
    def evaluation_batch(self) -> int:
        """Conversations that are evaluated at once; the loss is the same for every cut."""
        return self.per_device_eval_batch_size * self.num_devices

    def num_steps(self, num_documents: int) -> int:
        """Return the optimizer steps of the whole run; the last step of an epoch may be smaller."""
        if self.max_steps > 0:
            return self.max_steps
        return self.num_train_epochs * self.steps_per_epoch(num_documents)

    def steps_per_epoch(self, num_documents: int) -> int:
        """Return the optimizer steps of one pass over the documents."""
        return -(-num_documents // self.effective_batch)
