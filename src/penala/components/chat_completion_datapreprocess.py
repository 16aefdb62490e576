"""Read, split, render, mask and tokenise the conversations, and lock the chat template."""

import json
from typing import Any, Literal

from penala.components.entry import Report, run
from penala.conversations.check import Check, check, require
from penala.conversations.split import split
from penala.errors import DataError
from penala.tokens.labels import Supervision
from penala.tokens.prepare import PrepareSettings, prepare

SplitName = Literal["train", "validation", "test"]


def body(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    train = _read("train", arguments)
    if train is None:
        raise DataError("no training conversations are given", fix="set train_file_path")
    splits = split(
        train,
        _read("validation", arguments) or arguments["validation_split"],
        _read("test", arguments) or arguments["test_split"],
    )
    report({"event": "note", "text": splits.note})
    settings = PrepareSettings(
        max_seq_length=arguments["max_seq_length"],
        on_too_long=arguments["on_too_long"],
        supervision=Supervision(
            last_turn_only=arguments["train_on"] == "last_turn", tool_calls=arguments["train_tool_calls"] == "true"
        ),
    )
    return prepare(splits, arguments["model_selector_output"], arguments["output_dir"], settings, report)


def _read(name: SplitName, arguments: dict[str, Any]) -> Check | None:
    if (path := arguments[f"{name}_file_path"]) is None:
        return None
    columns = json.loads(arguments["column_mapping"] or "{}")
    checked = check([path], schema=arguments["conversation_schema"], columns=columns)
    require(checked, split=name, on_bad_row=arguments["on_bad_row"])
    return checked


if __name__ == "__main__":
    run("chat_completion_datapreprocess", body)
