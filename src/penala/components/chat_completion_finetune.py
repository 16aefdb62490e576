"""Train a LoRA adapter on the prepared conversations and merge it."""

from typing import Any

from penala.components.entry import Report, run
from penala.training.settings import FinetuneSettings
from penala.training.trainer import train


def body(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    return train(
        arguments["preprocess_output"],
        arguments["model_selector_output"],
        arguments["pytorch_model_folder"],
        FinetuneSettings.from_inputs(arguments),
        report,
    )


if __name__ == "__main__":
    run("chat_completion_finetune", body)
