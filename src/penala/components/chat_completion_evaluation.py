"""Compare the tuned model with its base, by loss and by replies."""

import json
from pathlib import Path
from typing import Any

from penala.components.entry import Report, run
from penala.evaluation.compare import compare


def body(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    config: Path | None = arguments["evaluation_config"]
    settings = json.loads(config.read_text(encoding="utf-8")) if config else {}
    settings |= json.loads(arguments["evaluation_config_params"] or "{}")
    if (forgetting := arguments["forgetting_file_path"]) is not None:
        settings["forgetting"] = forgetting
    return compare(
        arguments["model_selector_output"],
        arguments["model_path"],
        arguments["preprocess_output"],
        arguments["evaluation_result"],
        settings,
        report,
    )


if __name__ == "__main__":
    run("chat_completion_evaluation", body)
