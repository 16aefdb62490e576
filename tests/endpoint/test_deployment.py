"""One deployment's application, called in process: the scoring contract, admission, time, failures."""

import asyncio
import json
import threading

import httpx
import pytest
from starlette.testclient import TestClient

from penala.endpoint.deployment import deployment_app, open_model
from penala.endpoint.serving import RequestSettings
from penala.engines.engine import Engine, NewToken
from penala.errors import TemplateMismatch

SHORT = {"max_new_tokens": 8}


def score_body(input_string, **parameters):
    return {"input_data": {"input_string": input_string, "parameters": parameters}, "params": {}}


@pytest.fixture
def client(make_app):
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        yield client


def test_a_flat_and_a_nested_conversation_get_the_same_text(client, question, expected):
    """{"output": TEXT}, the text being what the engine writes."""
    text = expected(question, 8)

    assert client.post("/score", json=score_body(question, **SHORT)).json() == {"output": text}
    assert client.post("/score", json=score_body([question], **SHORT)).json() == {"output": text}


def test_several_conversations_get_a_list_in_their_order(client, question, expected):
    """Each reply is the one that its conversation gets alone."""
    other = [{"role": "system", "content": "teh"}, {"role": "user", "content": "teh tarik?"}]

    answer = client.post("/score", json=score_body([question, other, question], **SHORT))

    assert answer.json() == {"output": [expected(question, 8), expected(other, 8), expected(question, 8)]}


def test_the_full_text_begins_with_the_prompt(client, question, expected, tokenizer):
    """return_full_text puts the rendered conversation before the reply."""
    prompt = tokenizer.render(question, add_generation_prompt=True)

    answer = client.post("/score", json=score_body(question, return_full_text=True, **SHORT))

    assert answer.json() == {"output": prompt + expected(question, 8)}


def test_a_stop_text_cuts_the_reply(client, question, expected):
    """The text before it is answered."""
    text = expected(question, 8)
    stop = text[3:5]

    answer = client.post("/score", json=score_body(question, stop=stop, **SHORT))

    assert answer.json() == {"output": text[: text.index(stop)]}


def test_sampling_follows_its_seed(client, question):
    """Same seed, same reply; the other seed writes another one."""

    def ask(seed):
        return client.post("/score", json=score_body(question, temperature=2.0, seed=seed, **SHORT)).json()

    assert ask(1) == ask(1) != ask(2)


@pytest.mark.parametrize(
    ("input_string", "parameters", "message"),
    [
        ([{"role": "user", "content": "kopi " * 300}], {}, "tokens, the model's context ends at 256: shorten it"),
        (
            [{"role": "user", "content": "kopi"}],
            {"max_new_tokens": 256},
            "more than the model's context of 256: ask for",
        ),
        ([{"role": "user", "content": "kopi"}, {"role": "assistant", "content": "x"}], {}, "nothing to reply to"),
    ],
)
def test_what_cannot_be_answered_is_a_400_with_numbers(client, input_string, parameters, message):
    """The error body has code and message, as azure-ai-ml reads it."""
    answer = client.post("/score", json=score_body(input_string, **parameters))

    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"]


def test_what_the_template_refuses_is_a_400_in_its_words(engine, tokenizer, question, chat_model, tmp_path):
    """A template that wants another order says so to the caller."""
    import shutil

    from penala.tokens.chat_tokenizer import ChatTokenizer

    folder = shutil.copytree(chat_model, tmp_path / "strict")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        + config["chat_template"]
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    strict = ChatTokenizer.from_folder(folder)

    with TestClient(deployment_app(engine, strict, model="m:1")) as client:
        answer = client.post("/score", json=score_body([{"role": "system", "content": "x"}, *question]))

    assert answer.status_code == 400
    assert "no system here" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/score", 405), ("POST", "/scores", 404), ("POST", "/score/", 404)]
)
def test_unknown_routes_and_methods_answer_in_our_shape(client, method, path, status):
    """404 and 405 with error.message."""
    answer = client.request(method, path)

    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


class SlowEngine(Engine):
    """Writes token 65 ("A" in bytes) for every request, a step at a time as `gate` allows, or fails."""

    max_length = 256

    def __init__(self, *, failing=False):
        self.gate = threading.Semaphore(0)
        self.rows = []
        self.added = 0
        self.cancelled = []
        self.failing = failing

    def add(self, request):
        self.added += 1
        self.rows.append([self.added, request.max_new_tokens])
        return self.added

    def step(self):
        if self.failing:
            raise RuntimeError("out of memory")
        if not self.rows:
            return []
        self.gate.acquire()
        tokens = []
        for row in self.rows:
            row[1] -= 1
            tokens.append(NewToken(row[0], 65, "length" if row[1] == 0 else None))
        self.rows = [row for row in self.rows if row[1] > 0]
        return tokens

    def cancel(self, request):
        self.cancelled.append(request)
        self.rows = [row for row in self.rows if row[0] != request]

    def reset(self):
        self.rows = []


def slow_app(tokenizer, engine, **settings):
    return deployment_app(engine, tokenizer, model="m:1", settings=RequestSettings(**settings))


def in_loop(app, work):
    """Run `work(client)` against an application and its engine thread, all in one event loop."""

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://d") as client,
        ):
            return await work(client)

    return asyncio.run(run())


def test_as_many_as_may_run_run_and_as_many_wait_the_rest_is_a_429(tokenizer, question):
    """With 2 at a time, of 6 requests 4 are answered and 2 are refused at once."""
    engine = SlowEngine()

    async def work(client):
        asked = [client.post("/score", json=score_body(question, max_new_tokens=1)) for _ in range(6)]
        pending = {asyncio.ensure_future(one) for one in asked}
        early, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        while len(early) < 2:
            more, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            early |= more
        engine.gate.release(100)
        late, _ = await asyncio.wait(pending)
        return [one.result() for one in early], [one.result() for one in late]

    refused, answered = in_loop(slow_app(tokenizer, engine, max_concurrent_requests_per_instance=2), work)

    assert [answer.status_code for answer in refused] == [429, 429]
    assert "4 requests are pending" in refused[0].json()["error"]["message"]
    assert [answer.status_code for answer in answered] == [200] * 4


def test_a_request_that_waits_too_long_for_its_turn_is_a_429(tokenizer, question):
    """max_queue_wait_ms is named, and the running one is answered."""
    engine = SlowEngine()

    async def work(client):
        first = asyncio.ensure_future(client.post("/score", json=score_body(question, max_new_tokens=1)))
        await asyncio.sleep(0)
        second = await client.post("/score", json=score_body(question, max_new_tokens=1))
        engine.gate.release(100)
        return await first, second

    app = slow_app(tokenizer, engine, max_concurrent_requests_per_instance=1, max_queue_wait_ms=20)
    first, second = in_loop(app, work)

    assert first.status_code == 200
    assert (second.status_code, "max_queue_wait_ms = 20" in second.json()["error"]["message"]) == (429, True)


def test_a_reply_that_takes_too_long_is_a_408_and_is_cancelled(tokenizer, question):
    """request_timeout_ms is named, with what was written, and the engine is free again."""
    engine = SlowEngine()

    async def work(client):
        engine.gate.release(3)
        answer = await client.post("/score", json=score_body(question, max_new_tokens=100))
        engine.gate.release(100)
        return answer, await client.post("/score", json=score_body(question, max_new_tokens=2))

    late, next_one = in_loop(slow_app(tokenizer, engine, request_timeout_ms=100), work)

    assert late.status_code == 408
    assert "request_timeout_ms = 100; 3 tokens" in late.json()["error"]["message"]
    assert engine.cancelled == [1]
    assert next_one.status_code == 200


def test_a_client_that_hangs_up_cancels_its_reply(tokenizer, question):
    """The rows leave the engine, and the seat is free for the next request."""
    engine = SlowEngine()
    app = slow_app(tokenizer, engine, max_concurrent_requests_per_instance=1)
    sent = []

    async def run():
        body = json.dumps(score_body([question, question], max_new_tokens=100)).encode()
        messages = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/score",
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
        }
        async with app.router.lifespan_context(app):
            answering = asyncio.ensure_future(app(scope, messages.get, send))
            while len(engine.rows) < 2:
                if engine.rows:  # the engine may wait in a step of the first row alone
                    engine.gate.release()
                await asyncio.sleep(0.001)
            messages.put_nowait({"type": "http.disconnect"})
            await answering
            engine.gate.release(100)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://d") as client:
                return await client.post("/score", json=score_body(question, max_new_tokens=2))

    answer = asyncio.run(run())

    assert sorted(engine.cancelled) == [1, 2]
    assert answer.json() == {"output": tokenizer.decode([65, 65])}


def test_a_failing_engine_is_a_500_and_the_next_request_is_answered(tokenizer, question):
    """The reason is in the answer; the process goes on."""
    engine = SlowEngine(failing=True)

    async def work(client):
        failed = await client.post("/score", json=score_body([question, question], max_new_tokens=2))
        engine.failing = False
        engine.gate.release(100)
        return failed, await client.post("/score", json=score_body(question, max_new_tokens=2))

    failed, answered = in_loop(slow_app(tokenizer, engine), work)

    assert failed.status_code == 500
    assert "out of memory" in failed.json()["error"]["message"]
    assert answered.status_code == 200


def test_sixteen_requests_at_once_are_all_answered(make_app, question, expected):
    """The default deployment refuses none of them, and each gets the reply that it gets alone."""
    text = expected(question, 8)

    async def work(client):
        asked = [client.post("/score", json=score_body(question, **SHORT)) for _ in range(16)]
        return await asyncio.gather(*asked)

    answers = in_loop(make_app(), work)

    assert [answer.json() for answer in answers] == [{"output": text}] * 16


def test_a_model_whose_template_was_changed_is_not_served(chat_model, tmp_path, question):
    """The lock beside the weights is checked before they are loaded; the first differing token is named."""
    import shutil

    from penala.conversations.conversation import Conversation, Message
    from penala.tokens.chat_tokenizer import ChatTokenizer
    from penala.tokens.lock import TemplateLock

    folder = shutil.copytree(chat_model, tmp_path / "model")
    conversation = Conversation((Message("user", "kopi?"), Message("assistant", "RM 2")))
    TemplateLock.make(ChatTokenizer.from_folder(folder), [conversation]).save(folder / "template_lock.json")
    open_model(folder, 1)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("<|im_end|>\n", "<|im_end|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()

    with pytest.raises(TemplateMismatch):
        open_model(folder, 1)
