"""Jobs of real processes: what they produce, reuse, report, and how they fail and stop."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penala.errors import JobError, NotFound, UsageError
from penala.workspace import shim
from penala.workspace.client import Workspace
from penala.workspace.events import Event
from penala.workspace.jobs import Jobs
from penala.workspace.plan import Plan
from penala.workspace.planner import make_plan
from penala.workspace.store import JobRow, LineageRow
from penala.workspace.tail import Tail

from .conftest import JOIN, WRITE, MakePipeline, dump, read_text

NO_TAIL = Tail(mlflow=False)
COPY = "import shutil; shutil.copytree(args['source'], args['out'], dirs_exist_ok=True)"
TwoSteps = Callable[..., Plan]


def drive(jobs: Jobs, name: str) -> list[Event]:
    """Start a job and follow it to its end."""
    jobs.start(name)
    return list(jobs.follow(name, poll_s=0.01))


def run(jobs: Jobs, plan: Plan, **options: Any) -> str:
    """Run a plan to its end and return its job."""
    name = jobs.submit(plan, NO_TAIL, **options)
    drive(jobs, name)
    return name


def statuses(jobs: Jobs, name: str) -> dict[str, str]:
    return {step.name: "reused" if step.reused_from else step.status for step in jobs.steps(name)}


def test_a_job_runs_its_steps_and_keeps_their_outputs(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Outputs lie under their digests, figures and lineage in the store, the logs beside the attempts."""
    jobs = workspace.jobs
    name = run(jobs, two_steps("hello"))
    write, join = jobs.steps(name)

    assert jobs.row(name).status == "Completed", dump(jobs.show(name))
    assert read_text(jobs.outputs(name)["result"]) == "HELLO"
    assert (write.figures, write.attempt, write.rc) == ({"letters": 5}, 1, 0)
    assert list(jobs.logs(name)) == [("write", ""), ("join", "joined hello\n")]
    assert write.outputs is not None
    assert join.outputs is not None
    parents = [(row.relation, row.parent) for row in workspace.store.find(LineageRow, child=join.outputs["out"])]
    assert parents == [("join.source", write.outputs["out"])]


def test_events_tell_the_whole_story_in_order(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Start, progress and end of each step come in order, the job's end last; somebody who comes later is told too."""
    jobs = workspace.jobs
    name = jobs.submit(two_steps(), NO_TAIL)
    story = [(event.kind, event.name, event.data.get("status")) for event in drive(jobs, name)]
    expected = [
        ("step", "write", "started"),
        ("progress", "write", None),
        ("figures", "write", None),
        ("step", "write", "completed"),
        ("step", "join", "started"),
        ("step", "join", "completed"),
        ("job", name, "Completed"),
    ]

    assert [entry for entry in story if entry[0] != "job" or entry[2] == "Completed"] == expected
    assert [(event.kind, event.name, event.data.get("status")) for event in jobs.follow(name)] == expected
    first = next(iter(jobs.follow(name)))
    assert first.as_dict() == {"event": "step", "step": "write", "status": "started", "attempt": 1}


def test_an_event_that_lacks_its_fields_is_passed_over(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Whatever a command writes into its step's file, the job ends, with the figures that are whole."""
    half = """
        for kind in ("figures", "metric", "progress", "note", "error", None, 7):
            event(event=kind)
        event(figures={"letters": 0})
    """
    name = run(workspace.jobs, two_steps(write=WRITE + textwrap.dedent(half)))

    assert workspace.jobs.row(name).status == "Completed", dump(workspace.jobs.show(name))
    assert workspace.jobs.steps(name)[0].figures == {"letters": 5}


def test_an_event_with_another_type_than_its_kind_has_is_passed_over(workspace: Workspace, two_steps: TwoSteps) -> None:
    """A number for a text, or a text for a number, breaks neither the runner nor those who follow the job."""
    odd = """
        event(event="figures", figures=[1])
        event(event="metric", name="loss", value="low")
        event(event="progress", done=None, total="?", unit="rows")
        event(event="progress", done=1, total=2, loss="low")
        event(event="note", text=7)
        event(event="error", what=7)
        event(event="error", what="it is so", where=["here"])
        open(os.environ["PENALA_EVENTS"], "a").write("[" * 100_000 + "\\n")
        sys.exit(3)
    """
    name = run(workspace.jobs, two_steps(write=odd))

    assert not {"figures", "metric", "progress", "note", "error"} & {
        event.kind for event in workspace.jobs.follow(name)
    }
    assert workspace.jobs.result(name)["error"].startswith("step write: ended with exit code 3")


def test_of_progress_that_went_by_only_the_last_is_told(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Whoever follows a long job late is told every metric, and not how far it was an hour ago."""
    script = """
        open(args["out"] + "/text", "w").write("rows")
        for n in (1, 2, 3):
            event(event="progress", done=n, total=3, unit="rows")
            event(event="metric", name="loss", value=1 / n, step=n)
    """
    name = run(workspace.jobs, two_steps(write=script))
    told = [event for event in workspace.jobs.follow(name) if event.name == "write"]

    assert [event.data["step"] for event in told if event.kind == "metric"] == [1, 2, 3]
    assert [event.data["done"] for event in told if event.kind == "progress"] == [3]


def test_an_unchanged_job_is_reused_in_every_step(workspace: Workspace, two_steps: TwoSteps) -> None:
    """A new job of the same plan takes outputs and figures from the one before and says so."""
    jobs = workspace.jobs
    first, second = run(jobs, two_steps()), run(jobs, two_steps())

    assert first != second
    assert statuses(jobs, second) == {"write": "reused", "join": "reused"}
    assert jobs.steps(second)[0].reused_from == f"{first}/write"
    assert jobs.steps(second)[0].figures == {"letters": 5}
    assert jobs.outputs(second) == jobs.outputs(first)
    assert [event.data["status"] for event in jobs.follow(second)] == ["reused", "reused", "Completed"]


def test_a_change_reruns_what_depends_on_it_and_nothing_else(
    workspace: Workspace, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """One row more in one file: its step and the one behind it run again; the other branch is reused."""
    files = {"left": {"type": "uri_file"}, "right": {"type": "uri_file"}}
    copy = "open(args['out'] + '/text', 'w').write(open(args['data']).read())"
    both = "open(args['out'] + '/text', 'w').write(open(args['a'] + '/text').read() + open(args['b'] + '/text').read())"
    steps: dict[str, Any] = {
        side: {
            "script": copy,
            "inputs": {"data": {"type": "uri_file"}},
            "bind": {"data": f"${{{{parent.inputs.{side}}}}}"},
        }
        for side in files
    }
    steps["both"] = {
        "script": both,
        "inputs": {"a": {"type": "uri_folder"}, "b": {"type": "uri_folder"}},
        "bind": {"a": "${{parent.jobs.left.outputs.out}}", "b": "${{parent.jobs.right.outputs.out}}"},
    }
    pipeline = make_pipeline(files, {"result": "both.out"}, **steps)
    given = {side: tmp_path / f"{side}.txt" for side in files}
    for side, path in given.items():
        path.write_text(side)
    run(workspace.jobs, make_plan(pipeline, given, folder=tmp_path))
    given["right"].write_text("RIGHT")
    name = run(workspace.jobs, make_plan(pipeline, given, folder=tmp_path))

    assert statuses(workspace.jobs, name) == {"left": "reused", "right": "Completed", "both": "Completed"}
    assert read_text(workspace.jobs.outputs(name)["result"]) == "leftRIGHT"


def test_a_forced_or_undeterministic_step_runs_again_and_is_stored(workspace: Workspace, two_steps: TwoSteps) -> None:
    """The look-up is skipped, the result still serves later jobs."""
    jobs = workspace.jobs
    run(jobs, two_steps())
    forced = run(jobs, two_steps(), force_rerun=True)
    moody = two_steps(write_more={"is_deterministic": False})
    undeterministic = run(jobs, moody)

    assert statuses(jobs, forced) == {"write": "Completed", "join": "Completed"}
    assert statuses(jobs, undeterministic) == {"write": "Completed", "join": "reused"}
    assert jobs.steps(run(jobs, two_steps()))[0].reused_from == f"{undeterministic}/write"


def test_a_vanished_artifact_is_made_again(workspace: Workspace, two_steps: TwoSteps) -> None:
    """A cache entry whose artifact somebody removed is no cache entry."""
    jobs = workspace.jobs
    result = jobs.outputs(run(jobs, two_steps()))["result"]
    assert result is not None
    (result / "text").unlink()
    result.rmdir()
    name = run(jobs, two_steps())

    assert statuses(jobs, name) == {"write": "reused", "join": "Completed"}
    assert read_text(result) == "HELLO"


def test_a_failed_step_says_why_in_its_own_words(workspace: Workspace, two_steps: TwoSteps) -> None:
    """The error event of the step is the error of the job; what follows is not started."""
    script = (
        "event(event='error', what='row 17 is bad', where='data.jsonl:17', fix='mend it', exit_code=1); sys.exit(1)"
    )
    jobs = workspace.jobs
    name = run(jobs, two_steps(write=script))
    row = jobs.row(name)

    assert (row.status, statuses(jobs, name)) == ("Failed", {"write": "Failed", "join": "Canceled"})
    assert jobs.result(name)["error"] == "data.jsonl:17: row 17 is bad; mend it"
    assert row.error is not None
    assert row.error["step"] == "write"
    assert Path(row.error["log"]).exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('first'); print('last words'); sys.exit(7)", "step write: ended with exit code 7: last words; see "),
        ("sys.exit(1)", "ended with exit code 1: it printed nothing"),
        ("os.kill(os.getpid(), 9)", r"was killed by SIGKILL \(out of memory\?\)"),
        ("os.kill(os.getpid(), 40)", r"was killed by signal 40: it printed nothing"),
        ("os.rmdir(args['out'])", "write: ended without writing its output out"),
    ],
)
def test_a_step_that_fails_without_a_word_is_described(
    workspace: Workspace, two_steps: TwoSteps, script: str, message: str
) -> None:
    """Exit code or signal, the last line of the log, and where the log is."""
    name = run(workspace.jobs, two_steps(write=script))

    with pytest.raises(JobError, match=message):
        raise JobError(workspace.jobs.result(name)["error"])


def test_a_failed_job_goes_on_with_the_step_that_failed(
    workspace: Workspace, two_steps: TwoSteps, tmp_path: Path
) -> None:
    """The same plan finds the failed job; its finished step is not run again, and the error is forgotten."""
    jobs = workspace.jobs
    plan = two_steps(join=f"if not os.path.exists({str(tmp_path / 'mended')!r}): sys.exit(1)\n{JOIN}")
    name = run(jobs, plan)
    (tmp_path / "mended").touch()
    again = jobs.submit(plan, NO_TAIL)
    drive(jobs, again)
    write, join = jobs.steps(name)

    assert again == name
    assert (jobs.row(name).status, jobs.row(name).error) == ("Completed", None)
    assert (write.attempt, join.attempt) == (1, 2)


def test_a_file_that_changed_since_the_plan_stops_the_job(
    workspace: Workspace, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Neither before nor while its step runs may an input change: its result would stand under the wrong digest."""
    data = tmp_path / "data.txt"
    data.write_text("one")
    step = {
        "script": f"open({str(data)!r}, 'a').write('more')",
        "inputs": {"data": {"type": "uri_file"}},
        "bind": {"data": "${{parent.inputs.data}}"},
    }
    pipeline = make_pipeline({"data": {"type": "uri_file"}}, {}, only=step)
    plan = make_plan(pipeline, {"data": data}, folder=tmp_path)
    during = run(workspace.jobs, plan)
    before = run(workspace.jobs, plan)

    for name in (during, before):
        assert workspace.jobs.result(name)["error"].startswith(f"{data}: has changed since the job was made")
    assert during == before
    data.unlink()
    assert "cannot be read any more" in workspace.jobs.result(run(workspace.jobs, plan))["error"]


def test_hostile_values_arrive_verbatim(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Quotes, expansions, newlines and non-ASCII text reach the step as they were given."""
    hostile = 'it\'s "q" $(touch /tmp/pwned) `id` ${HOME} \\n\n; & | > * ~ # é 日本 --flag '
    name = run(
        workspace.jobs,
        two_steps(hostile, join=COPY),
    )

    assert read_text(workspace.jobs.outputs(name)["result"]) == hostile


def test_cancel_ends_the_whole_tree_quickly(workspace: Workspace, two_steps: TwoSteps, tmp_path: Path) -> None:
    """A daemon that the step started ends with it, in under 2 s, and a later start goes on."""
    up = tmp_path / "up"
    daemon = f"(setsid sleep 1007 &); touch {up}; sleep 1007; sleep 1007"
    script = f"import subprocess; subprocess.Popen(['bash', '-c', {daemon!r}]).wait()"
    jobs = workspace.jobs
    name = jobs.submit(two_steps(write=f"if not os.path.exists({str(up)!r}): {script}\n{WRITE}"), NO_TAIL)
    jobs.start(name)
    events = []
    asked = 0.0
    for event in jobs.follow(name, poll_s=0.01):
        events.append(event)
        if event.kind == "step" and event.data["status"] == "started":
            wait_for(up)
            asked = time.monotonic()
            jobs.cancel(name)
    took = time.monotonic() - asked
    attempt = jobs.folder / name / "write" / "attempt-1"

    assert took < 2
    assert jobs.row(name).status == "Canceled"
    assert statuses(jobs, name) == {"write": "Canceled", "join": "Canceled"}
    assert shim.kill_leftovers(attempt) == 0
    assert events[-1].data["status"] == "Canceled"
    with pytest.raises(JobError, match="the job is Canceled already"):
        jobs.cancel(name)
    drive(jobs, name)
    assert statuses(jobs, name) == {"write": "Completed", "join": "Completed"}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


def test_a_job_has_one_runner(workspace: Workspace, two_steps: TwoSteps, tmp_path: Path) -> None:
    """While one lives, a second is refused, however it is started."""
    jobs = workspace.jobs
    go = tmp_path / "go"
    plan = two_steps(write=f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n{WRITE}")
    name = jobs.submit(plan, NO_TAIL)

    assert jobs.start(name)
    assert jobs.is_running(name)
    assert not jobs.start(name)
    argv = [sys.executable, "-m", "penala.workspace.runner", workspace.folder, name]
    second = subprocess.run(argv, capture_output=True, text=True)
    assert (second.returncode, second.stderr) == (1, f"error: {name}: another runner has it\n")
    go.touch()
    assert [event.data["status"] for event in jobs.follow(name) if event.kind == "job"][-1] == "Completed"
    assert jobs.steps(name)[0].attempt == 1


@pytest.mark.parametrize("resumable", [True, False])
def test_only_resumable_outputs_outlive_an_attempt(
    workspace: Workspace, two_steps: TwoSteps, tmp_path: Path, resumable: bool
) -> None:
    """A step with the tag finds its checkpoint again; any other one starts on an empty folder."""
    script = """
        seen = os.listdir(args["out"])
        open(args["out"] + "/checkpoint", "w").write("x")
        if os.environ["PENALA_ATTEMPT"] == "1": sys.exit(1)
        os.remove(args["out"] + "/checkpoint")
        open(args["out"] + "/text", "w").write(" ".join(seen) or "nothing")
    """
    jobs = workspace.jobs
    plan = two_steps(write=script, write_more={"tags": {"resumable": "true"}} if resumable else {})
    name = run(jobs, plan)
    run(jobs, plan)

    assert read_text(jobs.outputs(name)["result"]) == ("CHECKPOINT" if resumable else "NOTHING")


def test_the_same_plan_goes_on_until_it_is_completed(workspace: Workspace, two_steps: TwoSteps) -> None:
    """An unfinished job is found again; another tail, another flag or a finished one makes a new job."""
    jobs = workspace.jobs
    plan = two_steps()
    name = jobs.submit(plan, NO_TAIL)

    assert jobs.submit(plan, NO_TAIL) == name
    others = {
        jobs.submit(plan, Tail(mlflow=True)),
        jobs.submit(plan, NO_TAIL, force_rerun=True),
        jobs.submit(plan, NO_TAIL, continue_unfinished=False),
    }
    assert len(others | {name}) == 4
    workspace.store.update(JobRow, {}, status="Completed")
    assert jobs.submit(plan, NO_TAIL) not in others | {name}


def test_show_and_list_have_the_promised_shape(workspace: Workspace, two_steps: TwoSteps) -> None:
    """What scripts rely on: names, states, outputs with type and path, child jobs with their reuse."""
    jobs = workspace.jobs
    run(jobs, two_steps())
    name = run(jobs, two_steps(), display_name="My job")
    shown = jobs.show(name)

    assert (shown["name"], shown["status"], shown["display_name"]) == (name, "Completed", "My job")
    assert name.startswith("my-job-")
    assert shown["outputs"] == {"result": {"type": "uri_folder", "path": str(jobs.outputs(name)["result"])}}
    children = [{key: job[key] for key in ("name", "display_name", "status", "reused")} for job in shown["jobs"]]
    assert children == [
        {"name": "write", "display_name": "write", "status": "Completed", "reused": True},
        {"name": "join", "display_name": "join", "status": "Completed", "reused": True},
    ]
    assert jobs.list()[0].name == name
    with pytest.raises(NotFound, match=f"there is no job '{name[:-1]}'; did you mean '"):
        jobs.show(name[:-1])


def test_a_result_reports_the_figures_of_the_steps(workspace: Workspace, make_pipeline: MakePipeline) -> None:
    """Ledger, training and evaluation come from the steps of those names; what did not run is None."""
    figures = {
        "chat_completion_datapreprocess": {"ledger": {"rows": {"in": 3}, "tokens": {"in": 30}}, "seconds": 1},
        "chat_completion_finetune": {"steps": 2, "loss": 0.5},
        "chat_completion_evaluation": {"before": {"loss": 2.0}, "after": {"loss": 1.0}},
    }
    steps = {name: {"script": f"event(event='figures', figures={values!r})"} for name, values in figures.items()}
    pipeline = make_pipeline({}, {}, **steps)
    plan = make_plan(pipeline, {}, folder=pipeline.file.parent)
    name = workspace.jobs.submit(plan, NO_TAIL)
    nothing = workspace.jobs.result(name)
    drive(workspace.jobs, name)

    expected = {
        "event": "result",
        "status": "Completed",
        "job": name,
        "error": None,
        "model": None,
        "endpoint": None,
        "ledger": {"rows": {"in": 3}, "tokens": {"in": 30}},
        "training": {"steps": 2, "loss": 0.5},
        "evaluation": {"before": {"loss": 2.0}, "after": {"loss": 1.0}},
        "reply": None,
    }
    assert workspace.jobs.result(name) == expected
    assert nothing == {**dict.fromkeys(expected), "event": "result", "status": "Queued", "job": name}
    assert workspace.jobs.result(run(workspace.jobs, plan)) == {**expected, "job": workspace.jobs.list()[0].name}


def test_outputs_can_be_downloaded(workspace: Workspace, two_steps: TwoSteps, tmp_path: Path) -> None:
    """An output is copied to named-outputs; an unfinished job, an unknown output and an existing copy are refused."""
    jobs = workspace.jobs
    name = jobs.submit(two_steps(), NO_TAIL)
    with pytest.raises(JobError, match="the job is Queued; wait until it has ended"):
        jobs.download(name, None, tmp_path)
    drive(jobs, name)

    assert jobs.download(name, "result", tmp_path) == [tmp_path / "named-outputs" / "result"]
    logs = [tmp_path / "all" / "artifacts" / step / "user_logs" / "std_log.txt" for step in ("write", "join")]
    assert jobs.download(name, None, tmp_path / "all") == [tmp_path / "all" / "named-outputs" / "result", *logs]
    assert logs[1].read_text() == "joined hello\n"
    assert read_text(tmp_path / "named-outputs" / "result") == "HELLO"
    with pytest.raises(NotFound, match="no output 'resolt'; did you mean 'result'"):
        jobs.download(name, "resolt", tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        jobs.download(name, None, tmp_path)
    with pytest.raises(NotFound, match="no step 'wrote'; did you mean 'write'"):
        list(jobs.logs(name, "wrote"))


def test_a_download_that_breaks_off_leaves_no_part(
    workspace: Workspace, two_steps: TwoSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then works, once there is room."""
    name = run(workspace.jobs, two_steps())

    def fill_the_disk(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "part").write_text("x")
        raise shutil.Error([(source, target, "No space left on device")])

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", fill_the_disk)
        with pytest.raises(JobError, match=r"result: cannot be written: .*No space left on device"):
            workspace.jobs.download(name, "result", tmp_path / "to")

    assert list((tmp_path / "to" / "named-outputs").iterdir()) == []
    assert workspace.jobs.download(name, "result", tmp_path / "to") == [tmp_path / "to" / "named-outputs" / "result"]


def test_files_and_equal_outputs_are_kept(workspace: Workspace, make_pipeline: MakePipeline) -> None:
    """An output may be a file, and two outputs of the same content share one artifact."""
    script = "[open(args[name], 'w').write('same') for name in ('one', 'two')]"
    pipeline = make_pipeline({}, {}, only={"script": script, "outputs": {"one": "uri_file", "two": "uri_file"}})
    name = run(workspace.jobs, make_plan(pipeline, {}, folder=pipeline.file.parent))
    outputs = workspace.jobs.steps(name)[0].outputs
    assert outputs is not None

    assert outputs["one"] == outputs["two"]
    assert (workspace.artifacts / outputs["one"]).read_text() == "same"
    assert os.listdir(workspace.folder / "artifacts") == [outputs["one"]]


def test_a_disk_that_cannot_be_written_fails_the_job_in_words(workspace: Workspace, two_steps: TwoSteps) -> None:
    """An error of the operating system becomes the job's error, without a traceback, and the job can go on after it."""
    jobs = workspace.jobs
    workspace.artifacts.rmdir()
    workspace.artifacts.write_text("in the way")
    name = run(jobs, two_steps())
    error = jobs.result(name)["error"]
    log = (jobs.folder / name / "runner.log").read_text()

    assert jobs.row(name).status == "Failed"
    assert "Not a directory" in error
    assert "Traceback" not in log
    workspace.artifacts.unlink()
    workspace.artifacts.mkdir()
    drive(jobs, name)
    assert jobs.row(name).status == "Completed"


def test_a_step_knows_where_it_is(workspace: Workspace, two_steps: TwoSteps) -> None:
    """Job, step, attempt and workspace are in its environment, its own folder is the working folder."""
    script = """
        names = ("PENALA_WORKSPACE", "PENALA_CACHE", "PENALA_JOB", "PENALA_STEP", "PENALA_ATTEMPT", "AZUREML_RUN_ID")
        found = {name: os.environ[name] for name in names}
        open(args["out"] + "/text", "w").write(json.dumps([found, os.getcwd()]))
    """
    name = run(
        workspace.jobs,
        two_steps(write=script, join=COPY),
    )
    folder = workspace.folder

    assert eval(read_text(workspace.jobs.outputs(name)["result"])) == [
        {
            "PENALA_WORKSPACE": str(folder),
            "PENALA_CACHE": str(folder / "cache"),
            "PENALA_JOB": name,
            "PENALA_STEP": "write",
            "PENALA_ATTEMPT": "1",
            "AZUREML_RUN_ID": f"{name}-write",
        },
        str(folder / "jobs" / name / "write" / "attempt-1" / "work"),
    ]


def test_a_list_reads_no_plans(workspace: Workspace, two_steps: TwoSteps) -> None:
    """With 10,000 jobs a list would take seconds if it decoded the plan of each."""
    workspace.jobs.submit(two_steps(), NO_TAIL)
    workspace.store.sql("update jobs set spec = 'not to be read'")

    assert [job.status for job in workspace.jobs.list()] == ["Queued"]


def test_a_job_may_be_named_and_described(workspace: Workspace, two_steps: TwoSteps) -> None:
    """A name is used once; what is said of a job stands in `show`, and its kind is that of its plan."""
    jobs = workspace.jobs
    plan = replace(two_steps(), kind="command")
    about = {"experiment_name": "letters", "tags": {"a": "b"}, "document": {"command": "..."}}
    name = jobs.submit(plan, NO_TAIL, name="mine", about=about, continue_unfinished=False)
    shown = jobs.show(name)

    assert (name, shown["type"], shown["jobs"]) == ("mine", "command", [])
    assert (shown["experiment_name"], shown["tags"]) == ("letters", {"a": "b"})
    assert "document" not in shown
    with pytest.raises(UsageError, match="mine: a job has this name already"):
        jobs.submit(plan, NO_TAIL, name="mine", continue_unfinished=False)


def test_a_job_runs_once_more_as_a_new_one(workspace: Workspace, two_steps: TwoSteps) -> None:
    """With all that was said of it; unchanged steps are reused unless it is forced."""
    jobs = workspace.jobs
    first = run(jobs, two_steps(), display_name="Letters", about={"description": "two steps"})
    again, forced = jobs.rerun(first), jobs.rerun(first, force=True)
    drive(jobs, again)
    drive(jobs, forced)

    assert len({first, again, forced}) == 3
    assert (jobs.row(again).display_name, jobs.row(again).about) == ("Letters", {"description": "two steps"})
    assert statuses(jobs, again) == {"write": "reused", "join": "reused"}
    assert statuses(jobs, forced) == {"write": "Completed", "join": "Completed"}
    with pytest.raises(NotFound, match="there is no job"):
        jobs.rerun("nothing")
