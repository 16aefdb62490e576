"""OpenAI's routes, asked by the official client and by hand."""

import json

import openai
import pytest
from starlette.testclient import TestClient

SHORT = {"max_tokens": 8}


@pytest.fixture
def client(make_app):
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def official(client):
    """The official client, its requests carried to the application in this process."""
    return openai.OpenAI(api_key="unused", base_url="http://testserver/v1", http_client=client, max_retries=0)


def test_the_official_client_gets_a_reply(official, question, expected):
    """Role, text, reason, usage and the model that answered."""
    reply = official.chat.completions.create(model="any", messages=question, **SHORT)

    assert reply.choices[0].message.content == expected(question, 8)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert (reply.object, reply.model) == ("chat.completion", "kopitiam:1")
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8


def test_the_official_client_streams_the_same_reply(official, question, expected):
    """The pieces joined are the reply; the last one says why it ended; then comes the usage that was asked for."""
    stream = official.chat.completions.create(
        model="any", messages=question, stream=True, stream_options={"include_usage": True}, **SHORT
    )
    chunks = list(stream)

    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == expected(question, 8)
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_is_server_sent_events_that_end_with_done(client, question):
    """Each event is one data line of JSON and an empty line."""
    answer = client.post("/v1/chat/completions", json={"messages": question, "stream": True, **SHORT})

    events = answer.text.split("\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-2])


def test_the_model_is_listed_and_told_of(official):
    """One: what this deployment serves."""
    assert [model.id for model in official.models.list()] == ["kopitiam:1"]
    assert official.models.retrieve("kopitiam:1").owned_by == "penala"
    with pytest.raises(openai.NotFoundError, match="the model here is kopitiam:1"):
        official.models.retrieve("gpt-4o")


def test_stop_and_seed_reach_the_engine(official, question, expected):
    """The reason is "stop" where a stop text ends the reply, and a seed repeats a sampled one."""
    text = expected(question, 8)
    stopped = official.chat.completions.create(model="any", messages=question, stop=[text[3:5]], **SHORT)
    sampled = [
        official.chat.completions.create(model="any", messages=question, temperature=2.0, seed=5, **SHORT)
        for _ in range(2)
    ]

    assert stopped.choices[0].message.content == text[: text.index(text[3:5])]
    assert stopped.choices[0].finish_reason == "stop"
    assert sampled[0].choices[0].message == sampled[1].choices[0].message


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": []}, "messages", "must be a list of messages"),
        ({"messages": None}, "messages", "must be a list of messages"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"temperature": 2.5}, "temperature", "at most 2"),
        ({"top_p": -0.1}, "top_p", "at least 0"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "mean the same and differ"),
        ({"max_completion_tokens": 1000}, "messages", "context of 256"),
        ({"n": 2}, "n", "n must be 1"),
        ({"n": "1"}, "n", "must be an integer"),
        ({"stop": 5}, "stop", "stop must be"),
        ({"seed": 1.5}, "seed", "must be an integer"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "beside stream: true"),
        ({"stream": True, "stream_options": {"usage": True}}, "usage", "unknown name 'usage'"),
        ({"model": 5}, "model", "must be a text"),
        ({"tools": [{"type": "function"}]}, "tools", "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"temprature": 0.5}, "temprature", "did you mean 'temperature'"),
        ({"max_new_tokens": 5}, "max_new_tokens", "unknown name 'max_new_tokens'"),
    ],
    ids=str,
)
def test_a_wrong_or_unsupported_parameter_is_a_400(client, question, body, param, message):
    """In OpenAI's shape: message, type, param and code."""
    answer = client.post("/v1/chat/completions", json={"messages": question, **body})

    error = answer.json()["error"]
    assert answer.status_code == 400
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["code"]


@pytest.mark.parametrize(
    "body",
    [
        {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "logprobs": False},
        {"user": "ali", "metadata": {"a": "b"}, "store": False},
        {"response_format": {"type": "text"}, "tool_choice": "none"},
        {"temperature": None, "stop": None, "max_tokens": None, "max_completion_tokens": 8, "tools": None},
    ],
    ids=str,
)
def test_what_changes_no_reply_is_taken(client, question, expected, body):
    """Neutral values and words about the caller answer as if they were absent."""
    answer = client.post("/v1/chat/completions", json={"messages": question, **SHORT, **body})

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == expected(question, 8)


def test_the_official_client_raises_its_own_error(official, question):
    """BadRequestError with the parameter."""
    with pytest.raises(openai.BadRequestError) as refused:
        official.chat.completions.create(model="any", messages=question, temperature=3)

    assert refused.value.param == "temperature"
