"""Endpoints without a model: the gateway and the supervisor as real processes, about a second each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from penala.endpoint.keys import read_keys
from penala.errors import EndpointError, NotFound, UsageError
from penala.workspace import shim
from penala.workspace.client import Workspace
from penala.workspace.endpoints import streamed_events
from penala.workspace.store import DeploymentRow, EndpointRow, ModelRow
from penala.workspace.supervisor import ensure, ensure_if_needed


def processes_of(folder: Path) -> list[psutil.Process]:
    """The living processes that name the folder in their arguments, or work in it; not this one."""
    found = []
    for process in psutil.process_iter():
        try:
            places = [process.cwd(), *process.cmdline()]
            if process.pid != os.getpid() and any(str(folder) in place for place in places):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


def until(condition, seconds=60.0):
    """Look until the condition holds; return what it gave. Fails when it never does."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


def kill_all(folder: Path) -> None:
    """kill -9 of every process of a workspace, as a reboot would do it."""
    while found := processes_of(folder):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=10)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path):
    """End what a test has started."""
    yield
    kill_all(tmp_path)


def probe(endpoint):
    """Status of the endpoint's liveness route, or None when nobody answers."""
    try:
        return httpx.get(endpoint["scoring_uri"].replace("/score", "/healthz"), trust_env=False).status_code
    except httpx.TransportError:
        return None


def gateway_pid(workspace, name="kopitiam"):
    """The process id of the gateway that runs, or None while there is none."""
    try:
        pids = json.loads((workspace.folder / "endpoints" / name / "gateway/pid.json").read_text())
    except FileNotFoundError:
        return None
    return pids["command"]


def test_a_new_endpoint_answers_and_asks_for_its_key(workspace):
    """show has the four faces; without a key 401, with it 404, as nothing is deployed."""
    shown = workspace.endpoints.create("kopitiam")
    keys = workspace.endpoints.keys("kopitiam")

    port = int(shown["scoring_uri"].split(":")[2].split("/")[0])
    assert shown == {
        "name": "kopitiam",
        "scoring_uri": f"http://127.0.0.1:{port}/score",
        "openai_base_url": f"http://127.0.0.1:{port}/v1",
        "provisioning_state": "Succeeded",
        "traffic": {},
    }
    assert workspace.endpoints.list() == [shown] == [workspace.endpoints.show("kopitiam")]
    assert sorted(keys) == ["primary_key", "secondary_key"]
    assert httpx.post(shown["scoring_uri"], trust_env=False).status_code == 401
    bearer = {"Authorization": f"Bearer {keys['secondary_key']}"}
    assert httpx.post(shown["scoring_uri"], headers=bearer, trust_env=False).status_code == 404


def test_delete_leaves_no_port_no_process_and_no_byte_of_the_keys(workspace, tmp_path):
    """Every file of the workspace is searched; the supervisor goes by itself; the name can be used again."""
    shown = workspace.endpoints.create("kopitiam")
    keys = workspace.endpoints.keys("kopitiam")
    workspace.endpoints.regenerate_key("kopitiam")
    keys = {*keys.values(), *workspace.endpoints.keys("kopitiam").values()}

    workspace.endpoints.delete("kopitiam")

    assert probe(shown) is None
    assert workspace.endpoints.list() == []
    # another process reads the files: SQLite loses its locks when this one closes a file that it has open
    words = [word for key in keys for word in ("-e", key)]
    assert subprocess.run(["grep", "-rc", *words, tmp_path], stdout=subprocess.DEVNULL).returncode == 1
    assert os.listdir(workspace.folder / "endpoints") == []
    until(lambda: not processes_of(tmp_path))
    assert workspace.endpoints.create("kopitiam")["scoring_uri"] == shown["scoring_uri"]


@pytest.mark.parametrize("victim", ["command", "shim"])
def test_a_killed_gateway_answers_again_at_the_same_address(workspace, victim):
    """kill -9 of the gateway or of its shim: the supervisor starts it again, and the keys stay."""
    shown = workspace.endpoints.create("kopitiam")
    keys = workspace.endpoints.keys("kopitiam")
    pids = json.loads((workspace.folder / "endpoints/kopitiam/gateway/pid.json").read_text())

    os.kill(pids[victim], signal.SIGKILL)
    until(lambda: gateway_pid(workspace) not in (None, pids["command"]))
    until(lambda: probe(shown) == 200)

    assert workspace.endpoints.show("kopitiam") == shown
    assert workspace.endpoints.keys("kopitiam") == keys


def test_a_new_supervisor_adopts_what_lives(workspace, tmp_path):
    """After kill -9 of the supervisor the gateway answers on; the next command starts another supervisor beside it."""
    shown = workspace.endpoints.create("kopitiam")
    before = gateway_pid(workspace)
    (old,) = [process for process in processes_of(tmp_path) if "penala.workspace.supervisor" in process.cmdline()]

    old.kill()
    until(lambda: not shim.held(workspace.folder / "supervisor.lock"))
    assert probe(shown) == 200
    ensure_if_needed(workspace.folder)

    assert shim.held(workspace.folder / "supervisor.lock")
    os.kill(before, signal.SIGKILL)
    until(lambda: gateway_pid(workspace) not in (None, before))
    until(lambda: probe(shown) == 200)


def test_everything_killed_comes_back_with_the_next_command(workspace, tmp_path):
    """As after a reboot: nothing lives, ensure_if_needed brings the same address back."""
    shown = workspace.endpoints.create("kopitiam")
    kill_all(tmp_path)

    ensure_if_needed(workspace.folder)

    until(lambda: probe(shown) == 200)


def test_five_at_once_start_one_supervisor(workspace, tmp_path):
    """The lock decides; the others find it held."""
    from concurrent.futures import ThreadPoolExecutor

    workspace.store.insert(EndpointRow("kopitiam", 20_001, "Deleting"))  # keeps it busy for a round
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(ensure, [workspace.folder] * 5))

    until(lambda: not workspace.store.find(EndpointRow))
    log = (workspace.folder / "supervisor.log").read_text()
    assert log.count("removing endpoint kopitiam") == 1


def test_a_workspace_without_endpoints_gets_no_supervisor(workspace, tmp_path):
    """ensure_if_needed looks and leaves; a missing workspace is no error."""
    ensure_if_needed(workspace.folder)
    ensure_if_needed(tmp_path / "nothing")

    assert not (workspace.folder / "supervisor.lock").exists()


def test_the_supervisor_is_small_and_nearly_idle(workspace, tmp_path):
    """Below 40 MB resident with one endpoint, and less than 2 % of a core over a second."""
    workspace.endpoints.create("kopitiam")
    (process,) = [process for process in processes_of(tmp_path) if "penala.workspace.supervisor" in process.cmdline()]

    assert process.memory_info().rss < 40e6
    assert process.cpu_percent(interval=1.0) < 2.0


@pytest.mark.slow
def test_a_removed_workspace_ends_its_processes(workspace, tmp_path):
    """rm -rf of the folder: supervisor and gateway notice and go."""
    import shutil

    workspace.endpoints.create("kopitiam")
    assert processes_of(tmp_path)

    shutil.rmtree(workspace.folder)

    until(lambda: not [p for p in processes_of(tmp_path) if "penala" in str(p.cmdline())], 20)


def test_a_regenerated_key_replaces_its_own_only(workspace):
    """The other one stays, the file's mode is 0600, and an unknown key is refused."""
    workspace.endpoints.create("kopitiam")
    before = workspace.endpoints.keys("kopitiam")

    after = workspace.endpoints.regenerate_key("kopitiam", "secondary")

    assert after["primary_key"] == before["primary_key"]
    assert after["secondary_key"] != before["secondary_key"]
    file = workspace.folder / "endpoints/kopitiam/keys.json"
    assert read_keys(file) == after
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="choose primary or secondary"):
        workspace.endpoints.regenerate_key("kopitiam", "third")


def test_an_endpoint_may_be_made_by_several_at_once(workspace):
    """They get the same one, with the same keys; so may its keys be replaced, and none of the old ones stays."""

    def make(_):
        with Workspace.open(workspace.folder) as opened:
            return opened.endpoints.create("kopitiam"), opened.endpoints.keys("kopitiam")

    def replace(which):
        with Workspace.open(workspace.folder) as opened:
            return opened.endpoints.regenerate_key("kopitiam", which)[f"{which}_key"]

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(4)))
        new = dict(zip(("primary_key", "secondary_key"), pool.map(replace, ("primary", "secondary")), strict=True))

    assert made == [(workspace.endpoints.show("kopitiam"), made[0][1])] * 4
    assert workspace.endpoints.keys("kopitiam") == new


def test_a_busy_port_is_refused_before_anything_is_made(workspace):
    """The port and the way out are named; no row, no folder, no process stays."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(EndpointError, match=f"port {port} is busy; stop the program that holds it, choose another"):
            workspace.endpoints.create("kopitiam", port=port)

    assert workspace.endpoints.list() == []
    assert not (workspace.folder / "supervisor.lock").exists()


def test_an_endpoint_keeps_its_port(workspace):
    """Asked again with the same port or none it is found; another one is refused."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    shown = workspace.endpoints.create("kopitiam", port=port)

    assert shown["scoring_uri"] == f"http://127.0.0.1:{port}/score"
    assert workspace.endpoints.create("kopitiam", port=port) == workspace.endpoints.create("kopitiam") == shown
    with pytest.raises(EndpointError, match=f"answers on port {port}, which it keeps"):
        workspace.endpoints.create("kopitiam", port=port + 1)


def test_a_port_taken_while_the_gateway_was_down_is_said(workspace, tmp_path):
    """The gateway's own words are in the error, and it answers once the port is free again."""
    shown = workspace.endpoints.create("kopitiam")
    kill_all(tmp_path)
    port = int(shown["scoring_uri"].split(":")[2].split("/")[0])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(EndpointError, match=f"port {port} cannot be used"):
            workspace.endpoints.create("kopitiam")

    until(lambda: probe(shown) == 200)


@pytest.mark.parametrize("name", ["ab", "1kopi", "kopi-", "ko_pi", "a" * 33, "", "../kopi", "kopi\n"])
def test_a_name_that_azure_would_not_take_is_refused(workspace, name):
    """The rule is in the message."""
    with pytest.raises(EndpointError, match="3 to 32 letters, digits"):
        workspace.endpoints.create(name)
    with pytest.raises(EndpointError, match="is no deployment name"):
        workspace.endpoints.deploy("kopitiam", name, "m", "1")


def test_what_is_not_there_is_named_with_what_is_near(workspace):
    """Endpoints, deployments and model versions."""
    workspace.store.insert(EndpointRow("kopitiam", 20_001, "Succeeded"))
    workspace.store.insert(DeploymentRow("kopitiam", "demo", "m", "1", "Failed", {"serving": None, "starting": None}))
    workspace.store.insert(ModelRow("kopi", "1", "0" * 64, "artifacts/0"))

    with pytest.raises(NotFound, match="no endpoint 'kopitam'; did you mean 'kopitiam'"):
        workspace.endpoints.show("kopitam")
    with pytest.raises(NotFound, match="no deployment 'dmo'; did you mean 'demo'"):
        workspace.endpoints.logs("kopitiam", "dmo")
    with pytest.raises(NotFound, match="no model kopi:2 is registered; did you mean 'kopi:1'"):
        workspace.endpoints.deploy("kopitiam", "demo", "kopi", "2")
    workspace.store.delete(EndpointRow)


def test_traffic_goes_to_deployments_that_serve(workspace):
    """One that never started gets none, and the old split stays."""
    workspace.endpoints.create("kopitiam")
    workspace.store.insert(DeploymentRow("kopitiam", "demo", "m", "1", "Failed", {"serving": None, "starting": None}))

    with pytest.raises(EndpointError, match="'demo' that is not there; there are none yet"):
        workspace.endpoints.set_traffic("kopitiam", {"demo": 100})

    assert workspace.endpoints.show("kopitiam")["traffic"] == {"demo": 0}
    assert workspace.endpoints.set_traffic("kopitiam", {})["traffic"] == {"demo": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"request_timeout": 5}, "unknown name 'request_timeout'; did you mean 'request_timeout_ms'"),
        ({"request_timeout_ms": 0}, "request_timeout_ms is 0"),
        ({"max_queue_wait_ms": True}, "max_queue_wait_ms is True"),
    ],
)
def test_wrong_request_settings_are_refused_before_anything_is_made(workspace, chat_model, settings, message):
    """Unknown names and values that are no count."""
    workspace.store.insert(ModelRow("kopi", "1", "0" * 64, str(chat_model)))

    with pytest.raises(UsageError, match=message):
        workspace.endpoints.deploy("kopitiam", "demo", "kopi", "1", request_settings=settings)

    assert workspace.endpoints.list() == []


def test_a_deployment_that_dies_at_start_says_why(workspace, chat_model, tmp_path):
    """The last lines of its log and the log's path; the endpoint stays, without traffic; nothing is started again."""
    import shutil

    folder = shutil.copytree(chat_model, tmp_path / "broken")
    (folder / "tokenizer.json").write_text("{")
    workspace.store.insert(ModelRow("kopi", "1", "0" * 64, str(folder)))
    notes = []

    with pytest.raises(EndpointError, match="ended with 1 while it started") as failed:
        workspace.endpoints.deploy("kopitiam", "demo", "kopi", "1", report=notes.append)

    assert "tokenizer.json" in failed.value.what
    assert failed.value.where is not None
    assert "tokenizer.json" in Path(failed.value.where).read_text()
    assert "tokenizer.json" in workspace.endpoints.logs("kopitiam", "demo")
    (shown,) = workspace.endpoints.deployments("kopitiam")
    assert (shown["provisioning_state"], shown["traffic"]) == ("Failed", 0)
    assert notes[0]["text"] == "starting deployment 'demo' of endpoint 'kopitiam'"
    workspace.endpoints.delete_deployment("kopitiam", "demo")
    assert workspace.endpoints.deployments("kopitiam") == []


def test_a_streamed_reply_may_hold_any_character():
    """Line separators that JSON leaves as they are, and cuts of the stream at any place."""
    texts = ["one\u2028two\u0085three\r", "\u2029"]
    stream = "".join(f"data: {json.dumps({'text': text}, ensure_ascii=False)}\n\n" for text in texts)
    parts = [stream[:20], stream[20:23], stream[23:], "data: [DONE]\n\n"]

    assert [event["text"] for event in streamed_events(parts)] == texts
