"""A tiny model behind a real endpoint: gateway, deployment and supervisor as processes of their own.

The tests share one endpoint, since a deployment takes seconds to load its libraries; each leaves it serving.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest

from penala.errors import EndpointError
from penala.workspace.client import Workspace
from penala.workspace.store import DeploymentRow, ModelRow

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "kopi?"}]
BODY = {"input_data": {"input_string": QUESTION, "parameters": {"max_new_tokens": 8}}}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, chat_model):
    """A workspace with versions 1 and 2 of a model, and version 3 that cannot be loaded; version 1 is deployed."""
    folder = tmp_path_factory.mktemp("serving") / "ws"
    with Workspace.open(folder, create=True) as opened:
        for version in ("1", "2", "3"):
            copy = shutil.copytree(chat_model, folder / "artifacts" / version)
            opened.store.insert(ModelRow("kopi", version, version, f"artifacts/{version}"))
        (copy / "model.safetensors").write_bytes(b"")
        opened.endpoints.deploy("kopitiam", "demo", "kopi", "1")
        yield opened
        for endpoint in opened.endpoints.list():
            opened.endpoints.delete(endpoint["name"])
        deadline = time.monotonic() + 10
        while left := processes_of(folder):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def processes_of(folder):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(str(folder) in text for text in [process.cwd(), *process.cmdline()]):
                found.append(process)
    return found


@pytest.fixture
def endpoints(workspace):
    return workspace.endpoints


@pytest.fixture
def address(endpoints):
    return endpoints.show("kopitiam")


@pytest.fixture
def bearer(endpoints):
    return {"Authorization": f"Bearer {endpoints.keys('kopitiam')['primary_key']}"}


def instance_pids(workspace, endpoint="kopitiam", deployment="demo"):
    row = workspace.store.get(DeploymentRow, endpoint=endpoint, name=deployment)
    folder = workspace.folder / "endpoints" / endpoint / "deployments" / deployment / str(row.instance)
    return json.loads((folder / "pid.json").read_text())


def test_a_deployed_version_has_all_the_traffic_and_answers(endpoints, address):
    """show says so, and invoke takes a body, an object with messages and a bare list."""
    replies = [endpoints.invoke("kopitiam", BODY), endpoints.invoke("kopitiam", {"messages": QUESTION})]

    assert address["traffic"] == {"demo": 100}
    (shown,) = endpoints.deployments("kopitiam")
    assert (shown["model"], shown["version"], shown["provisioning_state"]) == ("kopi", "1", "Succeeded")
    short, long = (reply["output"] for reply in replies)
    assert long.startswith(short.rstrip("\ufffd"))  # its last token may end within a character
    assert endpoints.invoke("kopitiam", QUESTION, deployment="demo") == replies[1]


def test_what_is_wrong_comes_back_in_the_endpoint_s_words(endpoints):
    """No last message of a user, a deployment that is not there, what is no JSON, and a wrong setting of chat."""
    with pytest.raises(EndpointError, match=r"answered 400: .*nothing to reply to"):
        endpoints.invoke("kopitiam", [*QUESTION, {"role": "assistant", "content": "x"}])
    with pytest.raises(EndpointError, match=r"answered 404: .*no deployment 'dmo'; did you mean 'demo'"):
        endpoints.invoke("kopitiam", QUESTION, deployment="dmo")
    with pytest.raises(EndpointError, match="answered 400: the body is not JSON"):
        endpoints.invoke("kopitiam", {"input_data": {"input_string": QUESTION, "parameters": {"top_p": float("nan")}}})
    with pytest.raises(EndpointError, match="answered 400: temperature must be a number"):
        list(endpoints.chat("kopitiam", QUESTION, temperature=9))


def test_sixteen_clients_at_once_are_all_answered(address, bearer):
    """None is refused, all get the same greedy reply."""
    with ThreadPoolExecutor(16) as pool, httpx.Client(trust_env=False, timeout=60) as client:
        asked = [pool.submit(client.post, address["scoring_uri"], json=BODY, headers=bearer) for _ in range(16)]
        answers = [one.result() for one in asked]

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_the_official_client_works_over_the_wire(endpoints, address):
    """Whole and streamed replies are the same, and so is chat's."""
    client = openai.OpenAI(api_key=endpoints.keys("kopitiam")["secondary_key"], base_url=address["openai_base_url"])
    with client:
        whole = client.chat.completions.create(model="kopi", messages=QUESTION, max_tokens=8)
        stream = client.chat.completions.create(model="kopi", messages=QUESTION, max_tokens=8, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()

    assert streamed == whole.choices[0].message.content
    assert "".join(endpoints.chat("kopitiam", QUESTION, max_tokens=8)) == streamed


def test_a_stream_is_not_held_back(address, bearer):
    """The first event is there long before the last one."""
    body = {"messages": QUESTION, "max_tokens": 200, "stream": True}
    url = f"{address['openai_base_url']}/chat/completions"
    with httpx.stream("POST", url, json=body, headers=bearer, trust_env=False, timeout=60) as answer:
        times = [time.monotonic() for line in answer.iter_lines() if line]

    assert len(times) > 20
    assert times[1] - times[0] < (times[-1] - times[0]) / 4


def test_a_client_that_hangs_up_frees_the_deployment(endpoints, address, bearer):
    """After 40 abandoned long replies, more than it admits at once, the next request is answered."""
    body = {"messages": QUESTION, "max_tokens": 200, "stream": True}
    url = f"{address['openai_base_url']}/chat/completions"
    for _ in range(40):
        with httpx.stream("POST", url, json=body, headers=bearer, trust_env=False, timeout=60) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())

    assert endpoints.invoke("kopitiam", BODY)["output"]


@pytest.mark.parametrize("victim", ["command", "shim"])
def test_a_killed_deployment_answers_again(workspace, endpoints, victim):
    """kill -9 of the process or of its shim: invoke waits until it is back, well within a minute."""
    reply = endpoints.invoke("kopitiam", BODY)

    os.kill(instance_pids(workspace)[victim], signal.SIGKILL)

    started = time.monotonic()
    assert endpoints.invoke("kopitiam", BODY) == reply
    assert time.monotonic() - started < 60


def test_a_chat_that_breaks_off_says_so(workspace, endpoints):
    """kill -9 in the middle of a reply ends the pieces with an error, not as if it were whole."""
    pieces = endpoints.chat("kopitiam", QUESTION, max_tokens=200)
    next(pieces)
    os.kill(instance_pids(workspace)["command"], signal.SIGKILL)

    with pytest.raises(EndpointError, match="broke off"):
        list(pieces)
    assert endpoints.invoke("kopitiam", BODY)["output"]


def test_the_same_again_starts_nothing(workspace, endpoints):
    """The instance that serves stays."""
    before = instance_pids(workspace)

    endpoints.deploy("kopitiam", "demo", "kopi", "1")

    assert instance_pids(workspace) == before


def test_a_new_version_takes_over_without_a_failed_request(workspace, endpoints, address, bearer):
    """Clients that ask all the time see 200 only; afterwards the models route names the new version."""
    statuses = []
    over = threading.Event()

    def ask():
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not over.is_set():
                statuses.append(client.post(address["scoring_uri"], json=BODY, headers=bearer).status_code)

    old = instance_pids(workspace)["command"]
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            endpoints.deploy("kopitiam", "demo", "kopi", "2")
            deadline = time.monotonic() + 40
            while psutil.pid_exists(old):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            over.set()
        for one in asking:
            one.result()

    models = httpx.get(f"{address['openai_base_url']}/models", headers=bearer, trust_env=False).json()
    assert set(statuses) == {200}
    assert models["data"][0]["id"] == "kopi:2"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(workspace, endpoints):
    """The error shows the log; the deployment answers as before."""
    before = endpoints.deployments("kopitiam")
    reply = endpoints.invoke("kopitiam", BODY)

    with pytest.raises(EndpointError, match="the model cannot be loaded"):
        endpoints.deploy("kopitiam", "demo", "kopi", "3")

    assert endpoints.deployments("kopitiam") == before
    assert endpoints.invoke("kopitiam", BODY) == reply


def test_a_second_deployment_shares_the_traffic_and_goes_again(endpoints, address, bearer):
    """deploy gives it all; a split reaches both; without traffic it can be deleted, with traffic it cannot."""
    assert endpoints.deploy("kopitiam", "green", "kopi", "1")["traffic"] == {"demo": 0, "green": 100}
    assert endpoints.set_traffic("kopitiam", {"demo": 50, "green": 50})["traffic"] == {"demo": 50, "green": 50}
    with httpx.Client(trust_env=False, timeout=60) as client:
        seen = {
            client.post(address["scoring_uri"], json=BODY, headers=bearer).headers["azureml-model-deployment"]
            for _ in range(40)
        }
    with pytest.raises(EndpointError, match="'green' has 50 % of the traffic"):
        endpoints.delete_deployment("kopitiam", "green")
    endpoints.set_traffic("kopitiam", {"demo": 100})
    endpoints.delete_deployment("kopitiam", "green")

    assert seen == {"demo", "green"}
    assert [shown["name"] for shown in endpoints.deployments("kopitiam")] == ["demo"]
    assert not (endpoints._folder / "endpoints/kopitiam/deployments/green").exists()


def test_a_deploy_that_was_killed_is_taken_over(workspace, endpoints):
    """The instance that was starting goes on; the same command again waits for it and starts no other."""
    import subprocess
    import sys

    code = (
        "import sys; from penala.workspace.client import Workspace\n"
        "Workspace.open(sys.argv[1]).endpoints.deploy('kopitiam', 'blue', 'kopi', '2')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(workspace.folder)]) as deploying:
        deadline = time.monotonic() + 60
        while workspace.store.get(DeploymentRow, endpoint="kopitiam", name="blue") is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        deploying.kill()

    endpoints.deploy("kopitiam", "blue", "kopi", "2")

    folder = workspace.folder / "endpoints/kopitiam/deployments/blue"
    assert [path.name for path in folder.iterdir()] == ["1"]
    endpoints.set_traffic("kopitiam", {"demo": 100})
    endpoints.delete_deployment("kopitiam", "blue")
