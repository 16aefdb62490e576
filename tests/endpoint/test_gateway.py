"""The gateway's application in process; behind it stand small applications that say who they are."""

import asyncio
import json
import os

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from penala.endpoint import gateway as gateway_module
from penala.endpoint.deployment import deployment_app
from penala.endpoint.gateway import gateway_app
from penala.endpoint.keys import write_keys

KEYS = {"primary_key": "first", "secondary_key": "second"}
BEARER = {"Authorization": "Bearer first"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PATHS = ("/", "/healthz", "/readyz", "/score", "/v1/models", "/v1/chat/completions", "/swagger.json", "//", "/healthz/")


def deployment(name):
    """An application that answers with its name and what it was asked."""

    async def answer(request: Request) -> Response:
        body = (await request.body()).decode()
        asked = {"path": request.url.path, "query": request.url.query, "headers": dict(request.headers), "body": body}
        return JSONResponse({"deployment": name, **asked}, headers={"x-from": name})

    async def fail(request: Request) -> Response:
        return JSONResponse({"error": {"code": "BadRequest", "message": "no"}}, 400)

    return Starlette(routes=[Route("/fail", fail), Route("/{path:path}", answer, methods=["GET", "POST"])])


class Gone(httpx.AsyncBaseTransport):
    """A socket that nobody listens on; `also` is done at each attempt."""

    def __init__(self, also=lambda: None):
        self.also = also

    async def handle_async_request(self, request):
        self.also()
        raise httpx.ConnectError("no such file")


@pytest.fixture
def folder(tmp_path):
    """An endpoint's folder with keys, and 100 % of the traffic on blue."""
    write_keys(tmp_path / "keys.json", KEYS)
    write_routes(tmp_path)
    return tmp_path


def write_routes(folder, traffic=None, sockets=None):
    """Replace routes.json, as the workspace does."""
    traffic = {"blue": 100} if traffic is None else traffic
    sockets = {"blue": "blue.sock", "green": "green.sock"} if sockets is None else sockets
    routes = {"endpoint": "kopitiam", "traffic": traffic, "deployments": sockets}
    (folder / "routes.new").write_text(json.dumps(routes))
    os.replace(folder / "routes.new", folder / "routes.json")


@pytest.fixture
def transports():
    """The way to each socket."""
    return {f"{name}.sock": httpx.ASGITransport(deployment(name)) for name in ("blue", "green")}


@pytest.fixture
def client(folder, transports):
    with TestClient(gateway_app(folder, transports.__getitem__), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "first"}, {"api-key": "first"}],
    ids=["no key", "wrong key", "no scheme", "other header"],
)
def test_no_door_without_a_key(client, headers):
    """Only GET and HEAD of the three probes answer; every other method and path is a 401."""
    got = {
        (method, path): client.request(method, f"http://testserver{path}", headers=headers).status_code
        for method in METHODS
        for path in PATHS
    }

    assert got == {
        (method, path): 200 if path in ("/", "/healthz", "/readyz") and method in ("GET", "HEAD") else 401
        for method, path in got
    }


def test_the_refusal_says_how_to_send_the_key(client):
    """In the header that says so, and in words."""
    answer = client.post("/score", json={})

    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer KEY" in answer.json()["error"]["message"]


def test_the_key_is_asked_for_before_the_body_is_read(folder):
    """A request without a key is answered although its body never comes."""
    import asyncio

    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": [(b"content-length", b"9")]}
    asyncio.run(gateway_app(folder)(scope, receive, send))

    assert sent[0]["status"] == 401


@pytest.mark.parametrize("key", ["first", "second"])
def test_both_keys_open(client, key):
    """Primary and secondary get the same answer."""
    assert client.post("/score", headers={"Authorization": f"Bearer {key}"}).json()["deployment"] == "blue"


def test_a_regenerated_key_works_at_once_and_the_old_one_no_more(client, folder):
    """The file is read anew when it was replaced."""
    assert client.get("/v1/models", headers=BEARER).status_code == 200

    write_keys(folder / "keys.json", {**KEYS, "primary_key": "third"})

    assert client.get("/v1/models", headers=BEARER).status_code == 401
    assert client.get("/v1/models", headers={"Authorization": "Bearer third"}).status_code == 200


def test_without_keys_nobody_gets_in(client, folder):
    """An endpoint that is being deleted answers 401, not 500."""
    (folder / "keys.json").unlink()

    assert client.get("/v1/models", headers=BEARER).status_code == 401


def test_a_request_is_passed_on_whole_but_for_the_key(client):
    """Path, query, body and headers arrive; the key does not."""
    answer = client.post("/a/b?c=d", headers={**BEARER, "x-mine": "1"}, content="kopi").json()

    assert (answer["path"], answer["query"], answer["body"]) == ("/a/b", "c=d", "kopi")
    assert answer["headers"]["x-mine"] == "1"
    assert "authorization" not in answer["headers"]


@pytest.mark.parametrize("path", ["//evil.example/score", "/%2e%2e/x", "/a%20b", "/http://evil.example"])
def test_a_strange_path_stays_a_path(client, path):
    """It is answered by the deployment, whatever it looks like."""
    answer = client.get(f"http://testserver{path}", headers=BEARER)

    assert answer.json()["deployment"] == "blue"


def test_the_answer_names_its_deployment_and_its_request(client):
    """x-request-id is fresh each time and the same on both sides; the client's own id comes back when it is valid."""
    first, second = (
        client.get("/x", headers={**BEARER, "x-request-id": "mine", "x-ms-client-request-id": "abc-1"})
        for _ in range(2)
    )

    assert first.headers["x-from"] == first.headers["azureml-model-deployment"] == "blue"
    assert first.json()["headers"]["x-request-id"] == first.headers["x-request-id"] != "mine"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-ms-client-request-id"] == "abc-1"


@pytest.mark.parametrize("client_id", ["a" * 41, "a b", "ä"])
def test_an_invalid_client_request_id_is_ignored(client, client_id):
    """Longer than 40 characters, or others than letters, digits, - and _."""
    answer = client.get("/x", headers={**BEARER, "x-ms-client-request-id": client_id.encode()})

    assert "x-ms-client-request-id" not in answer.headers


def test_the_header_picks_a_deployment_past_the_traffic(client):
    """green has none and answers."""
    assert client.get("/x", headers={**BEARER, "azureml-model-deployment": "green"}).json()["deployment"] == "green"


def test_traffic_is_split_and_changes_without_a_restart(client, folder):
    """All on blue, then all on green."""
    assert {client.get("/x", headers=BEARER).json()["deployment"] for _ in range(20)} == {"blue"}

    write_routes(folder, {"green": 100})

    assert {client.get("/x", headers=BEARER).json()["deployment"] for _ in range(20)} == {"green"}


def test_both_sides_of_a_split_answer(client, folder):
    """With half the traffic each, 60 requests reach both (one in 2^59 times this fails)."""
    write_routes(folder, {"blue": 50, "green": 50})

    assert {client.get("/x", headers=BEARER).json()["deployment"] for _ in range(60)} == {"blue", "green"}


def test_an_unknown_deployment_is_a_404_with_the_near_name(client):
    """The message helps."""
    answer = client.get("/x", headers={**BEARER, "azureml-model-deployment": "gren"})

    assert answer.status_code == 404
    assert "has no deployment 'gren'; did you mean 'green'?" in answer.json()["error"]["message"]


def test_no_traffic_is_a_404(client, folder):
    """As in Azure ML."""
    write_routes(folder, {})

    answer = client.get("/x", headers=BEARER)

    assert answer.status_code == 404
    assert "no deployment of endpoint 'kopitiam' has traffic" in answer.json()["error"]["message"]


def test_the_model_s_own_error_goes_through_with_azure_s_headers(client):
    """Status and body are the model's; the two headers repeat it where an Azure client looks."""
    answer = client.get("/fail", headers=BEARER)

    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no")
    assert answer.headers["ms-azureml-model-error-statuscode"] == "400"
    assert answer.headers["ms-azureml-model-error-reason"] == "Bad Request"


def test_a_body_beyond_the_limit_is_a_413(client, monkeypatch):
    """Whether its length is declared or it comes in pieces."""
    monkeypatch.setattr(gateway_module, "MAX_BODY_BYTES", 10)

    assert client.post("/x", headers=BEARER, content=b"a" * 10).status_code == 200
    assert client.post("/x", headers=BEARER, content=b"a" * 11).status_code == 413
    assert client.post("/x", headers=BEARER, content=iter([b"a" * 6] * 2)).status_code == 413


def test_a_deployment_that_is_down_is_a_503(client, transports):
    """The message says that it may come back."""
    transports["blue.sock"] = Gone()

    answer = client.get("/x", headers=BEARER)

    assert answer.status_code == 503
    assert "try again in a few seconds" in answer.json()["error"]["message"]


def test_a_request_that_meets_a_swap_goes_to_the_new_instance(client, folder, transports):
    """The old socket is gone, the routes name another one: the client sees nothing of it."""
    transports["old.sock"] = Gone(also=lambda: write_routes(folder))
    write_routes(folder, sockets={"blue": "old.sock"})

    assert client.get("/x", headers=BEARER).json()["deployment"] == "blue"


def test_ready_means_that_every_deployment_with_traffic_answers(client, folder, transports):
    """503 with the name of the one that does not, and without traffic."""
    assert client.get("/readyz").json() == {"status": "ready", "endpoint": "kopitiam"}

    transports["green.sock"] = Gone()
    assert client.get("/readyz").status_code == 200
    write_routes(folder, {"blue": 50, "green": 50})
    assert client.get("/readyz").status_code == 503
    assert "green" in client.get("/readyz").json()["error"]["message"]
    write_routes(folder, {})
    assert client.get("/readyz").status_code == 503


def test_the_scoring_contract_holds_through_the_gateway(folder, engine, tokenizer, question, expected):
    """A flat body is answered, a wrong one is a 400 with its reason, through both applications."""
    app = deployment_app(engine, tokenizer, model="kopitiam:1")
    body = {"input_data": {"input_string": question, "parameters": {"max_new_tokens": 8}}}
    with (
        TestClient(app),
        TestClient(gateway_app(folder, lambda path: httpx.ASGITransport(app)), raise_server_exceptions=False) as client,
    ):
        good = client.post("/score", headers=BEARER, json=body)
        bad = client.post("/score", headers=BEARER, json={"input_data": {}})

    assert good.json() == {"output": expected(question, 8)}
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "BadRequest")


def test_the_gateway_loads_neither_torch_nor_transformers():
    """Its process stays small: nothing of the engines is imported."""
    import subprocess
    import sys

    code = (
        "import sys, penala.endpoint.gateway; print({'torch', 'transformers', 'mlflow', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_a_client_that_hangs_up_within_its_body_is_no_fault(folder, transports):
    """The gateway raises nothing, which would be a traceback in its log for every lost connection."""
    headers = [(b"authorization", b"Bearer first"), (b"content-length", b"2")]
    scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "headers": headers}
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(gateway_app(folder, transports.__getitem__)(scope, receive, send))

    assert sent[0]["status"] == 499
