"""The real application of one deployment over a tiny random model, in this process."""

import pytest
import torch

from penala.endpoint.deployment import deployment_app
from penala.endpoint.serving import RequestSettings
from penala.engines.engine import Generation
from penala.engines.transformers_engine import open_engine
from penala.tokens.chat_tokenizer import ChatTokenizer

QUESTION = [{"role": "user", "content": "kopi?"}]


@pytest.fixture(scope="session")
def tokenizer(chat_model) -> ChatTokenizer:
    return ChatTokenizer.from_folder(chat_model)


@pytest.fixture
def engine(chat_model):
    return open_engine(chat_model, dtype=torch.float32)


@pytest.fixture
def make_app(engine, tokenizer):
    """Return the application of a deployment with these request settings."""

    def make(**settings):
        return deployment_app(engine, tokenizer, model="kopitiam:1", settings=RequestSettings(**settings))

    return make


@pytest.fixture
def question() -> list[dict[str, str]]:
    """One conversation that waits for a reply."""
    return [dict(message) for message in QUESTION]


@pytest.fixture
def expected(chat_model, tokenizer):
    """Return the greedy reply that an engine gives to a conversation; not the application's, which its thread owns."""
    engine = open_engine(chat_model, dtype=torch.float32)

    def reply(messages, max_new_tokens):
        prompt = tuple(tokenizer.prompt(messages))
        (completion,) = engine.generate([Generation(prompt, max_new_tokens, tokenizer.end_ids)])
        return tokenizer.parse_reply(completion.ids).content

    return reply
