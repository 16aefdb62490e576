import json

import pytest

from penala.conversations.conversation import Message
from penala.endpoint.fields import Sampling
from penala.endpoint.refusals import Refusal
from penala.endpoint.scoring import as_score_body, parse_score, score_reply
from penala.errors import UsageError

ASK = {"role": "user", "content": "kopi?"}
ONE = (Message("user", "kopi?"),)


def body(input_string=(ASK,), parameters=None, **more):
    data = {"input_string": list(input_string)} | ({} if parameters is None else {"parameters": parameters})
    return json.dumps({"input_data": data, **more}).encode()


def test_one_conversation_may_be_flat_or_nested():
    """Both shapes mean the same conversation."""
    assert parse_score(body([ASK])).conversations == parse_score(body([[ASK]])).conversations == (ONE,)


def test_several_conversations_keep_their_order():
    """Each with its own messages."""
    other = {"role": "user", "content": "teh?"}

    assert parse_score(body([[ASK], [other]])).conversations == (ONE, (Message("user", "teh?"),))


def test_the_tutorial_body_is_read_whole():
    """The four parameters of Azure's notebook, beside empty params."""
    parameters = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200}

    request = parse_score(body([[ASK]], parameters, params={}))

    assert request.sampling == Sampling(max_new_tokens=200, temperature=0.6, top_p=0.9)
    assert request.return_full_text is False


@pytest.mark.parametrize(
    ("parameters", "sampling"),
    [
        ({}, Sampling()),
        ({"temperature": 0.7}, Sampling(temperature=0.7)),
        ({"temperature": 0}, Sampling(temperature=0.0)),
        ({"do_sample": True}, Sampling(temperature=1.0)),
        ({"do_sample": True, "temperature": 0}, Sampling(temperature=0.0)),
        ({"do_sample": False, "temperature": 0.7}, Sampling(temperature=0.0)),
        ({"top_p": 0.5}, Sampling(temperature=1.0, top_p=0.5)),
        ({"top_p": 1}, Sampling()),
        ({"max_gen_len": 7}, Sampling(max_new_tokens=7)),
        ({"max_gen_len": 7, "max_new_tokens": 7}, Sampling(max_new_tokens=7)),
        ({"seed": 0}, Sampling(seed=0)),
        ({"stop": "x"}, Sampling(stop=("x",))),
        ({"stop": ["x", "y"]}, Sampling(stop=("x", "y"))),
        ({"temperature": None, "stop": None}, Sampling()),
    ],
    ids=str,
)
def test_parameters_say_how_the_reply_is_written(parameters, sampling):
    """Greedy unless sampling is asked for; seed 0 is a seed; null is as good as absent; params means the same."""
    assert parse_score(body(parameters=parameters)).sampling == sampling
    assert parse_score(body(params=parameters)).sampling == sampling


def test_names_beside_the_two_known_ones_are_ignored_as_azure_does():
    """They change nothing."""
    assert parse_score(body(session="abc")) == parse_score(body())


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"input_data": {"input_string": "\\ud800"}}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object, not an empty list"),
        (b'"hello"', "must be a JSON object, not a text"),
        (b"{}", "A value is not provided for the 'input_data' parameter"),
        (b'{"input_data": null}', "A value is not provided for the 'input_data' parameter"),
        (b'{"input_data": []}', "input_data must be an object with input_string"),
        (b'{"input_data": {"columns": []}}', "input_data must be an object with input_string"),
        (b'{"input_data": {"input_string": []}}', "must be a list of messages, not an empty list"),
        (b'{"input_data": {"input_string": "hello"}}', "must be a list of messages, not a text"),
        (b'{"input_data": {"input_string": {}}}', "not an empty object"),
        (b'{"input_data": {"input_string": null}}', "not null"),
        (b'{"input_data": {"input_string": [[]]}}', r"input_string\[0\] must be a list of messages, not an empty"),
        (b'{"input_data": {"input_string": [1]}}', r"input_string\[0\] must be an object with role and content"),
        (body([ASK, [ASK]]), r"input_string\[1\] must be an object with role and content, not a list"),
        (body([[ASK], ASK]), r"input_string\[1\] must be a list of messages, not an object"),
        (body([{"role": "usr", "content": "x"}]), r"\[0\]\.role must be one of .*; did you mean 'user'"),
        (body([{"content": "x"}]), r"\[0\]\.role must be one of system, user, assistant, tool$"),
        (body([{"role": "user"}]), r"\[0\]\.content must be a text, not null"),
        (body([{"role": "user", "content": 5}]), r"\[0\]\.content must be a text, not a number"),
        (body([{"role": "user", "content": [{"type": "image_url"}]}]), "the model reads text only"),
        (body([ASK, {"role": "assistant", "content": "x"}]), "ends with a message of role 'assistant'.*leave that"),
        (body([{"role": "system", "content": "x"}]), "ends with a message of role 'system'"),
        (body([[ASK]] * 257), "has 257 conversations, at most 256"),
        (body(parameters={"temprature": 1}), "unknown name 'temprature'; did you mean 'temperature'"),
        (body(params={"beams": 1}), "unknown name 'beams'; known are temperature, "),
        (body(parameters=[]), r"input_data\.parameters must be an object"),
        (body(params=5), "params must be an object"),
        (body(parameters={"temperature": 1}, params={"temperature": 0.5}), "temperature has two values"),
        (body(parameters={"max_gen_len": 5, "max_new_tokens": 6}), "max_gen_len differ"),
        (body(parameters={"temperature": "0.6"}), 'temperature must be a number .*, not "0.6"'),
        (body(parameters={"temperature": -1}), "temperature must be a number of at least 0"),
        (body(parameters={"temperature": True}), "temperature must be a number"),
        (body(parameters={"temperature": 10**400}), "temperature must be a number"),
        (body(parameters={"top_p": 1.5}), "top_p must be a number of at least 0 and at most 1, not 1.5"),
        (body(parameters={"max_new_tokens": 0}), "max_new_tokens must be an integer of at least 1, not 0"),
        (body(parameters={"max_new_tokens": 2.5}), "max_new_tokens must be an integer"),
        (body(parameters={"do_sample": "true"}), 'do_sample must be true or false, not "true"'),
        (body(parameters={"return_full_text": 1}), "return_full_text must be true or false"),
        (body(parameters={"stop": ["a"] * 5}), "at most 4 texts"),
        (body(parameters={"stop": ""}), "none empty"),
        (body(parameters={"seed": 2**63}), "seed must be an integer"),
        (json.dumps({"input_data": {"input_string": [ASK], "parametrs": {}}}).encode(), "did you mean 'parameters'"),
        (json.dumps({"input_data": {"input_string": [ASK]}, "parameters": {}}).encode(), "did you mean 'params'"),
        (json.dumps({"inputs_data": {}}).encode(), "did you mean 'input_data'"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:24],
)
def test_a_wrong_body_is_a_400_that_names_the_place(sent, message):
    """Never an empty 200, never a 500."""
    with pytest.raises(Refusal, match=message) as refused:
        parse_score(sent)

    assert refused.value.status == 400
    assert refused.value.body["error"]["code"] == "BadRequest"


def test_text_parts_are_joined_and_tool_calls_need_no_content():
    """OpenAI's list of text parts is one text; other keys of a message travel on."""
    calls = [{"id": "1", "type": "function"}]
    sent = [
        {"role": "user", "content": [{"type": "text", "text": "ko"}, {"type": "text", "text": "pi"}], "name": "Ali"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "RM 2"},
    ]

    (conversation,) = parse_score(body(sent)).conversations

    assert [message.content for message in conversation] == ["kopi", "", "RM 2"]
    assert conversation[0].extra == {"name": "Ali"}
    assert conversation[1].extra == {"tool_calls": calls}


def test_one_reply_is_a_text_and_several_are_a_list():
    """As many as were asked for."""
    assert score_reply(["a"]) == {"output": "a"}
    assert score_reply(["a", "b"]) == {"output": ["a", "b"]}


@pytest.mark.parametrize("document", [[ASK], {"messages": [ASK]}, {"messages": [ASK], "id": 7}], ids=str)
def test_a_file_with_messages_becomes_a_score_body(document):
    """A bare list or an object with messages; the result parses."""
    assert parse_score(json.dumps(as_score_body(document)).encode()).conversations == (ONE,)


def test_a_score_body_is_sent_as_it_is():
    """Nothing is added or taken away."""
    document = json.loads(body(parameters={"top_p": 0.5}, other=1))

    assert as_score_body(document) is document


@pytest.mark.parametrize("document", [{}, "hello", 5, None, {"message": []}, {"messages": "x"}], ids=str)
def test_anything_else_is_no_request(document):
    """The error shows the three shapes."""
    with pytest.raises(UsageError, match=r"this is no request; send .*input_string.* or a bare list of messages"):
        as_score_body(document)
