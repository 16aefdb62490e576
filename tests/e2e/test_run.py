"""The whole path from outside: the program, its processes, a real endpoint on loopback; a tiny random model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.slow
STEPS = 6


class Project:
    """A user's folder with a recipe, and the program to run in it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        turns = [f"kopi number {n}" for n in range(40)]
        rows = [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "teh"}]} for text in turns
        ]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        recipe = {
            "base_model": str(model),
            "conversations": {"train": "train.jsonl"},
            "finetuning": {"num_train_epochs": 2, "learning_rate": 0.01, "logging_steps": 1},
            "model": {"name": "tiny"},
            "endpoint": {"name": "tiny-chat"},
            "sample": {"messages": [{"role": "user", "content": "kopi?"}]},
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start the program with its output in pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "penala", *argv],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def penala(self, *argv: str, code: int = 0) -> str:
        """Run the program to its end and return what it printed on stdout."""
        done = self.start(*argv)
        out, err = done.communicate(timeout=200)
        assert done.returncode == code, err
        assert "Traceback" not in err
        return out

    def run(self, *argv: str, code: int = 0) -> dict[str, Any]:
        """Run the recipe and return the result, the last line that --json prints."""
        result: dict[str, Any] = json.loads(
            self.penala("run", "recipe.yaml", "--json", *argv, code=code).splitlines()[-1]
        )
        assert result["event"] == "result"
        return result

    def processes(self) -> list[psutil.Process]:
        """Return the processes that belong to the workspace."""
        workspace = str(self.folder / ".penala")
        found = []
        for process in psutil.process_iter():
            try:
                told = [process.cwd(), *process.cmdline(), *process.environ().values()]
            except (psutil.Error, OSError):
                continue
            if any(workspace in text for text in told) and process.pid != os.getpid():
                found.append(process)
        return found


@pytest.fixture
def project(tmp_path, chat_model):
    """A project; whatever it left running is ended."""
    project = Project(tmp_path, chat_model)
    yield project
    for process in project.processes():
        process.kill()


def test_a_recipe_becomes_a_model_behind_a_keyed_endpoint(project):
    """One command; the result, the model, the endpoint and the second run are what the pages promise."""
    result = project.run()

    assert result["status"] == "Completed"
    assert result["error"] is None
    assert result["model"] == {"name": "tiny", "version": "1"}
    rows = result["ledger"]["rows"]
    assert rows["in"] == 40 == rows["trained"] + rows["masked"] + rows["cut"] + rows["dropped"] + rows["held_out"]
    assert rows["held_out"] == 8
    assert result["training"]["steps"] == 8
    assert result["training"]["loss"] < result["evaluation"]["before"]["loss"]
    assert result["evaluation"]["after"]["loss"] < result["evaluation"]["before"]["loss"]
    assert isinstance(result["reply"], str)

    _check_endpoint(project, result["endpoint"])
    _check_reuse(project, result)
    _check_download(project)

    project.penala("endpoints", "delete", "tiny-chat", "--yes")
    assert json.loads(project.penala("endpoints", "list", "--json")) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(result["endpoint"]["scoring_uri"], trust_env=False)


def _check_endpoint(project: Project, endpoint: dict[str, str]) -> None:
    keys = json.loads(project.penala("endpoints", "keys", "tiny-chat", "--json"))
    body = {"input_data": {"input_string": [{"role": "user", "content": "kopi?"}], "parameters": {"max_new_tokens": 3}}}
    with httpx.Client(trust_env=False, timeout=60) as client:
        assert client.post(endpoint["scoring_uri"], json=body).status_code == 401
        for key in keys.values():
            answer = client.post(endpoint["scoring_uri"], json=body, headers={"Authorization": f"Bearer {key}"})
            assert list(answer.json()) == ["output"]
        asked = {"messages": [{"role": "user", "content": "kopi?"}], "max_tokens": 3}
        headers = {"Authorization": f"Bearer {keys['primary_key']}"}
        answer = client.post(f"{endpoint['openai_base_url']}/chat/completions", json=asked, headers=headers)
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"


def _check_reuse(project: Project, first: dict[str, Any]) -> None:
    second = project.run()

    shown = json.loads(project.penala("jobs", "show", second["job"], "--json"))
    assert shown["status"] == "Completed"
    assert all(step["reused"] for step in shown["jobs"])
    for part in ("model", "ledger", "training", "evaluation"):
        assert second[part] == first[part]


def _check_download(project: Project) -> None:
    project.penala("models", "download", "tiny:1", "--to", "package")
    assert (project.folder / "package" / "MLmodel").is_file()
    assert "penala" not in (project.folder / "package" / "requirements.txt").read_text(encoding="utf-8")
    assert "train.jsonl" in project.penala("models", "lineage", "tiny:1")


def _wait_for_step(running: subprocess.Popen[str], step: str) -> None:
    """Read the events of a running program until `step` has reported progress."""
    assert running.stdout is not None
    for line in running.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["step"] == step:
            return
    raise AssertionError(f"{step} never began")


LONG = ["--set", "finetuning.max_steps=400", "--set", "endpoint=null", "--set", "sample=null"]


def test_ctrl_c_cancels_and_the_same_command_goes_on(project):
    """After Ctrl-C nothing runs; typed again, finished steps stay and training resumes after its checkpoint."""
    running = project.start("run", "recipe.yaml", "--json", *LONG)
    _wait_for_step(running, "chat_completion_finetune")
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)

    cancelled = json.loads(out.splitlines()[-1])
    assert running.returncode == 1
    assert cancelled["status"] == "Canceled"
    assert project.processes() == []

    events = [json.loads(line) for line in project.penala("run", "recipe.yaml", "--json", *LONG).splitlines()]
    assert events[-1]["status"] == "Completed"
    assert events[-1]["job"] == cancelled["job"]
    assert events[-1]["training"]["steps"] == 400
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any(note.startswith("going on after step") for note in notes)


def test_a_killed_run_ends_with_the_same_weights(project, tmp_path_factory, chat_model):
    """kill -9 of every process in the middle of training, then the same command: byte for byte the unbroken weights."""
    running = project.start("run", "recipe.yaml", "--json", *LONG)
    _wait_for_step(running, "chat_completion_finetune")
    time.sleep(0.3)
    for process in [running, *project.processes()]:
        process.kill()
    running.communicate()

    broken = project.run(*LONG)
    unbroken = Project(tmp_path_factory.mktemp("unbroken"), chat_model).run(*LONG)

    assert broken["status"] == unbroken["status"] == "Completed"
    assert broken["training"]["loss"] == unbroken["training"]["loss"]
    assert broken["evaluation"] == unbroken["evaluation"]


def test_a_failed_step_says_why_and_where_its_log_lies(project):
    """A row above the limit fails the preparation; the message names the row, and the exit code is 1."""
    done = project.start("run", "recipe.yaml", "--set", "finetuning.max_seq_length=5")
    _, err = done.communicate(timeout=100)

    assert done.returncode == 1
    assert "train.jsonl:1" in err
    assert "on_too_long" in err
    assert "goes on where it stopped" in err
    assert "Traceback" not in err


def test_a_busy_port_is_named(project):
    """An endpoint whose port is taken fails the job after the model is registered, and says which port."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = project.run("--set", f"endpoint.port={port}", code=1)

    assert result["status"] == "Failed"
    assert str(port) in result["error"]
    assert result["endpoint"] is None
