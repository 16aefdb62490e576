"""Job documents run by real processes, from the command line where that is what is promised."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from penala.errors import JobError
from penala.workspace.client import Workspace
from penala.workspace.documents import read_job, submit_job
from penala.workspace.plan import Step

HOSTILE = [
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`id`",
    "a;b|c&d",
    "two\nlines",
    "$HOME",
    "\\n",
    "-rf",
    "*",
    " ",
    "é漢\t",
]
Run = Callable[[dict[str, Any]], str]


@pytest.fixture
def run(workspace: Workspace, tmp_path: Path) -> Run:
    """Run a document that lies in a folder of its own to its end, without MLflow, and return the job's name."""

    def run(mapping: dict[str, Any]) -> str:
        document = read_job(mapping, workspace=workspace, folder=tmp_path)
        name = submit_job(workspace, replace(document, tail=replace(document.tail, mlflow=False)))
        for _ in workspace.jobs.follow(name, revive=True):
            pass
        return name

    return run


def penala(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PENALA_WORKSPACE": str(folder / "ws")}
    return subprocess.run(
        [sys.executable, "-m", "penala", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def text_of(workspace: Workspace, job: str, output: str) -> str:
    path = workspace.jobs.outputs(job)[output]
    assert path is not None
    return path.read_text()


WRITE = "python -c \"import sys; open(sys.argv[1], 'w').write('|'.join(sys.argv[2:]))\" ${{outputs.out}}"
PRINT = 'bash -c \'out=$1; shift; IFS="|"; printf %s "$*" > "$out"\' - ${{outputs.out}}'


@pytest.mark.parametrize("command", [WRITE, PRINT], ids=["words", "shell"])
def test_hostile_values_arrive_as_they_are_written(run: Run, workspace: Workspace, command: str) -> None:
    """Whatever quotes a document's author puts around a placeholder, and whether a shell reads it or not."""
    quoted = {"bare": "{}", "double": '"{}"', "single": "'{}'"}
    inputs = {f"t{n}": value for n, value in enumerate(HOSTILE)}
    jobs = {
        name: {
            "command": " ".join([command, *(quotes.format(f"${{{{inputs.{key}}}}}") for key in inputs)]),
            "inputs": {key: f"${{{{parent.inputs.{key}}}}}" for key in inputs},
            "outputs": {"out": f"${{{{parent.outputs.{name}}}}}"},
        }
        for name, quotes in quoted.items()
    }
    outputs = {name: {"type": "uri_file"} for name in quoted}
    job = run({"type": "pipeline", "inputs": inputs, "outputs": outputs, "jobs": jobs})

    assert workspace.jobs.row(job).status == "Completed"
    for name in quoted:
        assert text_of(workspace, job, name).split("|") == "|".join(HOSTILE).split("|")


def test_variables_hold_the_inputs_and_outputs_of_their_step(run: Run, workspace: Workspace) -> None:
    """Verbatim, whether the pipeline's inputs stand beside them or not."""
    step = {
        "command": 'printf %s "$TEXT" > $OUT',
        "inputs": {"text": "${{parent.inputs.words}}"},
        "outputs": {"out": "${{parent.outputs.out}}"},
        "environment_variables": {"TEXT": "${{parent.inputs.words}}-${{inputs.text}}", "OUT": "${{outputs.out}}"},
    }
    outputs = {"out": {"type": "uri_file"}}
    job = run({"type": "pipeline", "inputs": {"words": "a $HOME 'x'"}, "outputs": outputs, "jobs": {"one": step}})

    assert text_of(workspace, job, "out") == "a $HOME 'x'-a $HOME 'x'"


def test_a_nested_pipeline_runs_with_its_code(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """A script in a code folder, with a module beside it, twice, the second on what the first wrote."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "helper.py").write_text("def louder(text):\n    return text.upper() + '!'\n")
    (code / "main.py").write_text(
        "import sys, helper\nfrom pathlib import Path\n"
        "source, target = map(Path, sys.argv[1:])\n"
        "(target / 'text').write_text(helper.louder((source / 'text').read_text()))\n"
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text").write_text("hello")
    louder = {
        "type": "command",
        "name": "louder",
        "inputs": {"source": {"type": "uri_folder"}},
        "outputs": {"target": {"type": "uri_folder"}},
        "code": "./code",
        "command": "python main.py ${{inputs.source}} ${{outputs.target}}",
    }
    inner = {
        "type": "pipeline",
        "inputs": {"source": {"type": "uri_folder"}},
        "outputs": {"target": {"type": "uri_folder"}},
        "jobs": {
            "a": {"component": louder, "inputs": {"source": "${{parent.inputs.source}}"}},
            "b": {
                "component": louder,
                "inputs": {"source": "${{parent.jobs.a.outputs.target}}"},
                "outputs": {"target": "${{parent.outputs.target}}"},
            },
        },
    }
    job = run(
        {
            "type": "pipeline",
            "outputs": {"result": {"mode": "upload"}},
            "jobs": {
                "twice": {
                    "type": "pipeline",
                    "component": inner,
                    "inputs": {"source": {"type": "uri_folder", "path": "in"}},
                    "outputs": {"target": "${{parent.outputs.result}}"},
                }
            },
        }
    )

    assert [step.name for step in workspace.jobs.steps(job)] == ["twice.a", "twice.b"]
    path = workspace.jobs.outputs(job)["result"]
    assert path is not None
    assert (path / "text").read_text() == "HELLO!!"
    assert not any("pyc" in name for name in os.listdir(code))


def test_what_does_not_depend_on_a_failure_still_runs(run: Run, workspace: Workspace) -> None:
    """As Azure ML's default is; the job has failed all the same, and says which step."""
    jobs = {
        "bad": {"command": "echo broken >&2; exit 3", "outputs": {"o": None}},
        "after": {"command": "ls ${{inputs.o}}", "inputs": {"o": "${{parent.jobs.bad.outputs.o}}"}},
        "beside": {"command": "sleep 0.3; echo fine"},
    }
    job = run({"type": "pipeline", "jobs": jobs})

    assert workspace.jobs.row(job).status == "Failed"
    assert {step.name: step.status for step in workspace.jobs.steps(job)} | {"after": ""} == {
        "bad": "Failed",
        "beside": "Completed",
        "after": "",
    }
    row = workspace.jobs.row(job)
    assert row.error is not None
    assert row.error["step"] == "bad"


def test_the_command_line_creates_streams_and_reruns(tmp_path: Path) -> None:
    """Data on stdout, the rest on stderr, 0 for a job that completes; the rerun reuses."""
    document = {
        "type": "pipeline",
        "display_name": "Two words",
        "experiment_name": "words",
        "inputs": {"word": "hello"},
        "outputs": {"text": {"type": "uri_file"}},
        "jobs": {
            "say": {
                "command": "echo ${{inputs.word}} > ${{outputs.text}}",
                "environment": "azureml:env:1",
                "inputs": {"word": "${{parent.inputs.word}}"},
                "outputs": {"text": "${{parent.outputs.text}}"},
            }
        },
    }
    (tmp_path / "job.yml").write_text(yaml.safe_dump(document))

    made = penala(tmp_path, "jobs", "create", "-f", "job.yml", "--set", "inputs.word=moin", "--name", "j1", "--json")
    assert (made.returncode, json.loads(made.stdout)["name"]) == (0, "j1")
    assert "stands in for the environments azureml:env:1" in made.stderr
    streamed = penala(tmp_path, "jobs", "stream", "j1")
    assert streamed.returncode == 0, streamed.stderr
    assert "execution summary of j1: Completed" in streamed.stderr
    shown = json.loads(penala(tmp_path, "jobs", "show", "j1", "--json").stdout)
    assert (shown["name"], shown["status"], shown["display_name"]) == ("j1", "Completed", "Two words")
    assert Path(shown["outputs"]["text"]["path"]).read_text() == "moin\n"
    assert "next: `penala jobs logs j1`" in penala(tmp_path, "jobs", "show", "j1").stderr

    again = penala(tmp_path, "jobs", "rerun", "j1", "--stream", "--json")
    assert again.returncode == 0, again.stderr
    newest = json.loads(penala(tmp_path, "jobs", "list", "--json").stdout)[0]["name"]
    assert newest != "j1"
    assert [job["reused"] for job in json.loads(penala(tmp_path, "jobs", "show", newest, "--json").stdout)["jobs"]] == [
        True
    ]
    taken = penala(tmp_path, "jobs", "create", "-f", "job.yml", "--name", "j1")
    assert (taken.returncode, "j1" in taken.stderr) == (2, True)


def test_the_same_document_goes_on_with_the_job_whose_runner_was_killed(workspace: Workspace, tmp_path: Path) -> None:
    """Its step lives, and is not done twice at once. Beside a living runner, or said otherwise, it is another job."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    command = f"echo $PENALA_JOB >> {begun}; while [ ! -e {go} ]; do sleep 0.02; done"
    job = {"command": command, "environment": "azureml:env:1"}

    def create(**more: Any) -> str:
        document = read_job({"type": "pipeline", "jobs": {"wait": job}, **more}, workspace=workspace, folder=tmp_path)
        return submit_job(workspace, replace(document, tail=replace(document.tail, mlflow=False)))

    first, other, beside = create(), create(description="another"), create()
    while not begun.exists() or len(begun.read_text().split()) < 3:
        time.sleep(0.01)
    for pid in workspace.jobs._runners:
        os.kill(pid, signal.SIGKILL)
    while any(map(workspace.jobs.is_running, (first, other, beside))):
        time.sleep(0.01)
    assert create(name="mine") not in (first, other, beside)
    again = [create(), create()]
    go.touch()
    for name in (first, other, beside, "mine"):
        list(workspace.jobs.follow(name, revive=True))

    assert len({first, other, beside}) == 3
    assert again == [beside, first]
    assert begun.read_text().split().count(first) == 1


def test_a_failed_stream_names_the_step_its_last_lines_and_the_log(tmp_path: Path) -> None:
    """And exits with 1."""
    (tmp_path / "job.yml").write_text("command: echo the reason; exit 7\n")
    failed = penala(tmp_path, "jobs", "create", "-f", "job.yml", "--stream")

    assert failed.returncode == 1
    for part in ("step main failed", "exit code 7", "log.txt", "penala jobs logs"):
        assert part in failed.stderr
    assert failed.stderr.splitlines().count("the reason") == 1
    shown = penala(tmp_path, "jobs", "show", json.loads(penala(tmp_path, "jobs", "list", "--json").stdout)[0]["name"])
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 2)  # its state and why; no empty tables


def test_the_stream_of_a_command_job_is_its_log(tmp_path: Path) -> None:
    """Line by line while it runs, also a last line without its end; Ctrl-C stops following, and says so."""
    (tmp_path / "job.yml").write_text("command: printf 'one\\ntw'; sleep 1; printf 'o\\n\\nthree'; sleep 600\n")
    assert penala(tmp_path, "jobs", "create", "-f", "job.yml", "--name", "j1").returncode == 0
    argv = [sys.executable, "-m", "penala", "-w", str(tmp_path / "ws"), "jobs", "stream", "j1", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as streamed:
        assert streamed.stdout is not None
        found = []
        while len(found) < 3:
            event = json.loads(streamed.stdout.readline())
            found += [event["text"]] if event["event"] == "log" else []
        streamed.send_signal(signal.SIGINT)
        _, said = streamed.communicate()

    assert found == ["one", "two", ""]
    assert (streamed.returncode, "j1 goes on; `penala jobs stream j1` follows it again" in said) == (1, True)
    assert "j1 is Canceled" in penala(tmp_path, "jobs", "cancel", "j1").stderr
    rest = penala(tmp_path, "jobs", "stream", "j1").stderr.splitlines()
    assert rest[1:5] == ["one", "two", "", "three"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("type: sweep\n", "job.yml:1: type: a sweep job does not run in this workspace"),
        ("type: pipeline\njobs: {a: {type: spark}}\n", "job.yml:2: jobs.a: is of type spark"),
        ("command: ls ${{inputs.x}}\n", "uses inputs.x, which is not declared"),
        ("command: [\n", "is not YAML"),
    ],
)
def test_a_refused_document_ends_with_2_and_no_job(tmp_path: Path, document: str, message: str) -> None:
    """One message on stderr, nothing on stdout."""
    (tmp_path / "job.yml").write_text(document)
    refused = penala(tmp_path, "jobs", "create", "-f", "job.yml", "--json")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert json.loads(penala(tmp_path, "jobs", "list", "--json").stdout) == []


def test_a_job_takes_what_an_earlier_one_wrote(run: Run, workspace: Workspace) -> None:
    """azureml://jobs/J/outputs/O, whole and a path below it."""
    first = run(
        {
            "command": "mkdir ${{outputs.out}}/deep; echo 42 > ${{outputs.out}}/deep/answer",
            "outputs": {"out": {"type": "uri_folder"}},
        }
    )
    address = f"azureml://jobs/{first}/outputs/out"
    second = run(
        {
            "command": "cat ${{inputs.all}}/deep/answer ${{inputs.one}} > ${{outputs.o}}",
            "inputs": {
                "all": {"type": "uri_folder", "path": address},
                "one": {"type": "uri_file", "path": f"{address}/paths/deep/answer"},
            },
            "outputs": {"o": {"type": "uri_file"}},
        }
    )

    assert text_of(workspace, second, "o") == "42\n42\n"


def test_an_output_goes_to_its_path_in_a_datastore(run: Run, workspace: Workspace) -> None:
    """Where the next job finds it, under the same address; a folder's other files stay."""
    address = "azureml://datastores/${{default_datastore}}/paths/out/${{ name }}"
    folder = workspace.folder / "datastores" / "blobs" / "out"
    (folder / "j1").mkdir(parents=True)
    (folder / "j1" / "old").touch()
    first = {
        "command": "echo 1 > ${{outputs.o}}/one; echo 2 > ${{outputs.f}}",
        "outputs": {"o": {"path": address}, "f": {"type": "uri_file", "path": f"{address}/two"}},
    }
    settings = {"default_datastore": "azureml:blobs"}
    job = run({"type": "pipeline", "name": "j1", "settings": settings, "jobs": {"one": first}})

    assert workspace.jobs.row(job).status == "Completed"
    assert sorted(os.listdir(folder / "j1")) == ["old", "one", "two"]
    second = {
        "command": "cat ${{inputs.d}}/one ${{inputs.d}}/two > ${{outputs.out}}",
        "inputs": {"d": {"path": "azureml://datastores/blobs/paths/out/j1"}},
        "outputs": {"out": {"type": "uri_file"}},
    }
    assert text_of(workspace, run(second), "out") == "1\n2\n"


def test_a_command_that_installs_packages_has_a_python_of_its_own(run: Run, workspace: Workspace) -> None:
    """In every way in which it may call it; nothing is left of it."""
    lines = ["python -c 'import sys; print(sys.prefix)'", "echo $VIRTUAL_ENV", "echo pip install x", "which pip"]
    job = run({"command": " && ".join(lines)})

    ((_, text),) = workspace.jobs.logs(job)
    prefix, active, _, pip = text.splitlines()
    assert prefix == active == str(workspace.folder / "jobs" / job / "main" / "attempt-1" / "python")
    assert pip == f"{prefix}/bin/pip"
    assert not Path(prefix).exists()


def test_a_step_takes_what_another_left_beside_its_outputs(run: Run, workspace: Workspace) -> None:
    """The output `artifacts`, which a job of Azure ML has without declaring it."""
    first = {"command": "echo a > outputs/a; ln -s a outputs/b; echo c > logs/c; echo d > ${{outputs.d}}/d"}
    second = {
        "command": "cd ${{inputs.all}}; cat outputs/a outputs/b logs/c > ${{outputs.out}}",
        "inputs": {"all": "${{parent.jobs.one.outputs.artifacts}}"},
        "outputs": {"out": "${{parent.outputs.out}}"},
    }
    jobs = {"one": {**first, "outputs": {"d": None}}, "two": second}
    document = {"type": "pipeline", "outputs": {"out": {"type": "uri_file"}}, "jobs": jobs}

    assert text_of(workspace, run(document), "out") == "a\na\nc\n"
    again = run(document)
    assert all(step.reused_from for step in workspace.jobs.steps(again))
    assert "one/outputs" in workspace.jobs.artifacts(again)


def test_a_command_that_writes_into_its_input_is_told_so(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """What it was given is the user's own folder."""
    (tmp_path / "data").mkdir()
    job = run({"command": "touch ${{inputs.d}}/new", "inputs": {"d": {"path": "data"}}})

    error = workspace.jobs.row(job).error
    assert error is not None
    assert error["what"] == "has changed since the step started"
    assert "let it work in a copy" in error["fix"]
    with pytest.raises(JobError, match=f"it has changed since {job} was made, or is gone; make a new job"):
        workspace.jobs.rerun(job)
    assert len(workspace.jobs.list()) == 1


def test_each_rank_of_a_distribution_gets_its_number(run: Run, workspace: Workspace) -> None:
    """`distribution: pytorch` on two nodes of two processes: four ranks with the env:// contract."""
    script = "import os; e = os.environ; print(*(e[k] for k in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'NODE_RANK')))"
    job = run(
        {
            "command": f'python -c "{script}"',
            "distribution": {"type": "pytorch", "process_count_per_instance": 2},
            "resources": {"instance_count": 2},
        }
    )

    assert workspace.jobs.row(job).status == "Completed"
    lines = {line for _, text in workspace.jobs.logs(job) for line in text.splitlines()}
    assert {"0 4 0 0", "1 4 1 0", "2 4 0 1", "3 4 1 1"} <= {line[-7:] for line in lines}


def test_the_steps_of_a_plan_are_what_they_were(run: Run, workspace: Workspace) -> None:
    """What is stored with a job is a plan that can be read back."""
    job = run({"command": "echo $GREETING", "environment_variables": {"GREETING": "hello there"}})

    step = Step(**workspace.jobs.row(job).spec["plan"]["steps"][0])
    assert step.variables == {"GREETING": "hello there"}
    assert any("hello there" in text for _, text in workspace.jobs.logs(job))
