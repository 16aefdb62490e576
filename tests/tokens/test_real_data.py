"""Conversations that nobody made up for these tests. Left out where the data does not lie beside the repository."""

import json
from pathlib import Path

import pytest

from penala.conversations.conversation import Conversation, Message
from penala.tokens.mask import prove

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")


def rows(name, count):
    """Read the first rows of a file of messages."""
    found = []
    for number, line in enumerate((DATA / name).read_text().splitlines()[:count], 1):
        messages = [Message(message["role"], message["content"], {}) for message in json.loads(line)["messages"]]
        found.append(Conversation(tuple(messages), None, {}, name, number, number))
    return found


@pytest.mark.parametrize(
    "name", ["ultrachat/train_sft.jsonl", "awkward/c11_code_and_markup.jsonl", "awkward/c12_outer_spaces.jsonl"]
)
def test_the_mask_of_every_row_is_proved(family, tokenizer_of, name):
    """Long texts, code, mark-up and outer spaces: each row's mask is proved, and each prompt is its row's beginning."""
    tokenizer = tokenizer_of(family.name)
    for row, tokens in zip(rows(name, 6), tokenizer.training_tokens_of(rows(name, 6)), strict=True):
        prove(tokenizer, tokens)
        prompt = tokenizer.prompt(row.messages[:-1])
        assert not family.prompt_is_prefix or tokens.ids[: len(prompt)] == prompt


def test_four_hundred_turns_are_one_row(tokenizer_of):
    """A conversation of 400 turns is proved turn by turn."""
    (tokens,) = tokenizer_of("phi-3").training_tokens_of(rows("awkward/c08_400_turns.jsonl", 1))

    prove(tokenizer_of("phi-3"), tokens)
    assert len(tokens.turns) >= 200


@pytest.mark.parametrize("name", ["chatml", "llama-2", "gemma-3"])
def test_special_tokens_in_messages_are_text(tokenizer_of, id_of, name):
    """Rows that spell the control tokens of half a dozen families hold as many as their template writes."""
    tokenizer, end = tokenizer_of(name), {"chatml": "<|im_end|>", "llama-2": "</s>", "gemma-3": "<end_of_turn>"}[name]
    for row in rows("awkward/c10_special_tokens.jsonl", 5):
        tokens = tokenizer.training_tokens(row)

        prove(tokenizer, tokens)
        assert tokens.ids.count(id_of(name, end)) == (1 if name == "llama-2" else 2)
