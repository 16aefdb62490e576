"""The data preparation step: what its inputs change in the tokens that are trained."""

import json

import pytest

from penala.components.chat_completion_datapreprocess import body
from penala.components.entry import parse


@pytest.fixture
def supervised(tmp_path, chat_model):
    """Prepare conversations of two turns and return how many of their tokens are trained."""
    turns = [("user", "kopi?"), ("assistant", "RM 2"), ("user", "teh?"), ("assistant", "RM 3")]
    rows = [{"messages": [{"role": role, "content": f"{text} {n}"} for role, text in turns]} for n in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def supervised(**inputs: str) -> int:
        argv = {"model_selector_output": chat_model, "train_file_path": tmp_path / "train.jsonl"}
        argv |= {"validation_split": "none", "test_split": "none", "output_dir": tmp_path / "out", **inputs}
        flags = [str(part) for name, value in argv.items() for part in (f"--{name}", value)]
        figures = body(parse("chat_completion_datapreprocess", flags), lambda event: None)
        return figures["tokens"]["train"]["supervised"]

    return supervised


def test_the_last_turn_alone_can_be_trained(supervised):
    """Half of the turns are half of the tokens: both answers are of one length."""
    assert supervised(train_on="last_turn") * 2 == supervised() == supervised(train_on="all_turns")


def test_turns_without_calls_are_trained_whatever_is_said_of_calls(supervised):
    """The choice concerns turns that call tools, and no other."""
    assert supervised(train_tool_calls="false") == supervised(train_tool_calls="true") > 0
