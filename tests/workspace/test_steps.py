"""Steps as Azure ML's commands expect them: side by side, with limits, code, kept folders, variables and ranks."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penala.errors import JobError
from penala.workspace import shim
from penala.workspace.artifacts import digest_of, environment_id
from penala.workspace.client import Workspace
from penala.workspace.plan import File, Literal, Plan, Step, Upstream
from penala.workspace.steps import StepFolder
from penala.workspace.store import StepRow
from penala.workspace.tail import Tail

NO_TAIL = Tail(mlflow=False)
Run = Callable[..., str]


def step(name: str, command: str, after: str | None = None, **more: Any) -> Step:
    """Return a step with one output, `out`, that waits for another one's."""
    inputs = {"before": Upstream(after, "out")} if after else {}
    outputs = more.pop("outputs", {"out": "uri_folder"})
    return Step(name, name, name, "1", "", command, "", {**inputs, **more.pop("inputs", {})}, outputs, **more)


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """Run steps as one job to its end and return its name."""

    def run(*steps: Step, name: str | None = None, tail: Tail = NO_TAIL, force: bool = False, **more: Any) -> str:
        outputs = {f"{step.name}_{output}": Upstream(step.name, output) for step in steps for output in step.outputs}
        plan = Plan("toy", "1", "Toy", steps, outputs, **more)
        made = workspace.jobs.submit(plan, tail, name=name, continue_unfinished=False, force_rerun=force)
        workspace.jobs.start(made)
        for _ in workspace.jobs.follow(made, poll_s=0.01):
            pass
        return made

    return run


def rows(workspace: Workspace, job: str) -> dict[str, StepRow]:
    return {row.name: row for row in workspace.jobs.steps(job)}


def overlaps(one: StepRow, other: StepRow) -> bool:
    assert None not in (one.started, one.ended, other.started, other.ended)
    return max(one.started or 0, other.started or 0) < min(one.ended or 0, other.ended or 0)


def log(workspace: Workspace, job: str) -> str:
    return "".join(text for _, text in workspace.jobs.logs(job))


MEET = "bash -c 'touch {0}/$PENALA_STEP; while [ $(ls {0} | wc -l) -lt {1} ]; do sleep 0.01; done'"


def test_steps_run_side_by_side_within_the_slots(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """Three that wait for one another need three slots; with two slots no more than two overlap."""
    met = tmp_path / "met"
    met.mkdir()
    job = run(*(step(name, MEET.format(met, 3)) for name in "abc"), slots=3)
    two = run(*(step(name, "sleep 0.3") for name in "abc"), slots=2)
    a, b, c = workspace.jobs.steps(two)

    assert workspace.jobs.row(job).status == "Completed"
    assert overlaps(a, b)
    assert not (overlaps(a, c) and overlaps(b, c) and overlaps(a, b))
    assert (c.started or 0) >= min(a.ended or 0, b.ended or 0)


def test_an_exclusive_step_runs_alone(run: Run, workspace: Workspace) -> None:
    """It waits for those that run, and none starts beside it."""
    job = run(step("a", "sleep 0.2"), step("b", "sleep 0.2", exclusive=True), step("c", "sleep 0.2"), slots=3)
    found = rows(workspace, job)

    assert overlaps(found["a"], found["c"])
    assert not overlaps(found["b"], found["a"])
    assert not overlaps(found["b"], found["c"])


@pytest.mark.parametrize("proceed", [True, False])
def test_a_failure_ends_the_others_unless_told_otherwise(run: Run, workspace: Workspace, proceed: bool) -> None:
    """What depends on it is Canceled in any case; the job fails with the step that failed."""
    job = run(
        step("bad", "bash -c 'echo broken; exit 3'"),
        step("after", "true", after="bad"),
        step("later", "true", after="after"),
        step("beside", "sleep 0.5"),
        step("behind", "true", after="beside"),
        slots=2,
        continue_on_step_failure=proceed,
    )
    found = {name: row.status for name, row in rows(workspace, job).items()}
    row = workspace.jobs.row(job)
    others = "Completed" if proceed else "Canceled"

    assert found == {"bad": "Failed", "after": "Canceled", "later": "Canceled", "beside": others, "behind": others}
    assert (row.status, (row.error or {})["step"]) == ("Failed", "bad")
    assert "broken" in workspace.jobs.result(job)["error"]


def test_a_failed_job_of_several_branches_goes_on(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """Only what is not done is run; the canceled steps are no longer."""
    mended = tmp_path / "mended"
    job = run(
        step("bad", f"test -e {mended}"),
        step("after", "true", after="bad"),
        step("beside", "true"),
        slots=2,
        continue_on_step_failure=True,
    )
    mended.touch()
    workspace.jobs.start(job)
    list(workspace.jobs.follow(job, poll_s=0.01))

    assert {name: row.attempt for name, row in rows(workspace, job).items()} == {"bad": 2, "after": 1, "beside": 1}
    assert workspace.jobs.row(job).status == "Completed"


def test_a_step_that_takes_too_long_is_ended(run: Run, workspace: Workspace) -> None:
    """With all its processes; it has failed and says which limit it broke. A fast one is not touched."""
    job = run(step("slow", "bash -c '(setsid sleep 1007 &); sleep 1007; sleep 1007'", timeout_s=0.5))
    fast = run(step("fast", "true", timeout_s=30))

    assert workspace.jobs.row(job).status == "Failed"
    assert (
        "took longer than its limit of 0.5 s, and was ended; raise limits.timeout"
        in (workspace.jobs.result(job)["error"])
    )
    assert shim.kill_leftovers(workspace.jobs.folder / job / "slow" / "attempt-1") == 0
    assert workspace.jobs.row(fast).status == "Completed"


def test_a_command_works_in_its_own_copy_of_its_code(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """It may write there, the snapshot stays as it is, and the next attempt gets a fresh one."""
    code = tmp_path / "code"
    (code / "sub").mkdir(parents=True)
    (code / "main.sh").write_text("#!/bin/sh\ncat sub/word\necho changed > sub/word\necho more > more\n")
    (code / "sub" / "word").write_text("fresh\n")
    (code / "main.sh").chmod(0o555)
    (code / "sub" / "word").chmod(0o444)
    source = digest_of(code)
    code.rename(workspace.artifacts / source)
    once = f"ls; ./main.sh; test -e {tmp_path}/twice || {{ touch {tmp_path}/twice; kill -9 $$; }}"
    job = run(step("main", f"bash -c '{once}'", source=source))

    assert workspace.jobs.row(job).status == "Completed", workspace.jobs.result(job)
    assert log(workspace, job) == "logs\nmain.sh\noutputs\nsub\nfresh\n" * 2
    assert digest_of(workspace.artifacts / source) == source
    (workspace.artifacts / source).rename(tmp_path / "gone")
    lost = run(step("main", "ls", source=source))
    assert "its code is no longer in the workspace" in workspace.jobs.result(lost)["error"]


LEAVE = "bash -c 'echo {0} > outputs/model.txt; mkdir logs/deep; echo line > logs/deep/x.log; echo said'"


def test_outputs_and_logs_of_the_working_folder_are_kept(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """By content, also of a step that failed, and a reused step shows them; a pipeline's stand below its steps."""
    jobs = workspace.jobs
    first = run(step("main", LEAVE.format("one"), outputs={}), kind="command")
    again = run(step("main", LEAVE.format("one"), outputs={}), kind="command")
    failed = run(step("main", LEAVE.format("two") + "; false", outputs={}))
    for number, job in enumerate((first, again, failed)):
        jobs.download(job, None, tmp_path / str(number))
    [row] = jobs.steps(first)

    assert sorted(row.outputs or {}) == ["./logs", "./outputs"]
    assert not (jobs.folder / first / "main" / "attempt-1" / "work").exists()
    assert (jobs.steps(again)[0].reused_from, jobs.steps(again)[0].outputs) == (f"{first}/main", row.outputs)
    for folder in (tmp_path / "0" / "artifacts", tmp_path / "1" / "artifacts"):
        assert (folder / "outputs" / "model.txt").read_text() == "one\n"
        assert (folder / "logs" / "deep" / "x.log").read_text() == "line\n"
        assert (folder / "user_logs" / "std_log.txt").read_text() == "said\n"
    assert (tmp_path / "2" / "artifacts" / "main" / "outputs" / "model.txt").read_text() == "two\n"
    assert list(jobs.logs(again)) == [("main", "said\n")]


def test_links_in_an_output_become_what_they_lead_to(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """A link to elsewhere would break when the output moves, or change with what it leads to."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    command = f"bash -c 'cd $1; ln -s {tmp_path}/data all; echo y > y; ln -s y one' - ${{{{outputs.out}}}}"
    job = run(step("main", command))
    path = workspace.jobs.outputs(job)["main_out"]
    assert path is not None

    assert (path / "all" / "x").read_text() + (path / "one").read_text() == "xy\n"
    assert not any(file.is_symlink() for file in path.rglob("*"))
    broken = run(step("main", "bash -c 'ln -s nowhere $1/x' - ${{outputs.out}}"))
    assert "holds a link to" in workspace.jobs.result(broken)["error"]
    pipe = run(step("main", "bash -c 'mkfifo $1/x' - ${{outputs.out}}"))
    assert "neither file nor folder" in workspace.jobs.result(pipe)["error"]


def test_a_read_only_output_is_kept(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    """Only its owner's write bit lets a folder move; here that is looked for, since root needs none."""
    command = "bash -c 'mkdir $1/in && touch $1/in/x outputs/x && chmod -R a-w $1 outputs{0}' - ${{{{outputs.out}}}}"
    done, failed = run(step("main", command.format(""))), run(step("main", command.format("; false")))
    path = workspace.jobs.outputs(done)["main_out"]
    assert path is not None
    workspace.jobs.download(failed, None, tmp_path / "to")

    for folder in (path, path / "in", tmp_path / "to" / "artifacts" / "main" / "outputs"):
        assert folder.stat().st_mode & 0o700 == 0o700


def test_a_step_finds_the_variables_of_an_azure_job(run: Run, workspace: Workspace) -> None:
    """Ids, experiment, its own variables; a command job's run is the job itself."""
    names = ("AZUREML_RUN_ID", "AZUREML_ROOT_RUN_ID", "AZUREML_EXPERIMENT_NAME", "COLOUR", "PENALA_ATTEMPT")
    show = "bash -c '" + "; ".join(f"echo ${name}" for name in names) + "'"
    variables = {"COLOUR": "it's red", "PENALA_ATTEMPT": "7"}
    job = run(step("main", show, variables=variables), kind="command")
    inner = run(step("a.b", show, variables=variables))

    assert log(workspace, job).split("\n")[:5] == [job, job, "toy", "it's red", "1"]
    assert log(workspace, inner).split("\n")[:2] == [f"{inner}-a.b", inner]


def key(step: Step, workspace: Path = Path("/ws")) -> str:
    return StepFolder(workspace, "j", step, {}).key()


KEYED = step("s", "ls", outputs={}, variables={"A": "1"}, source="a", inputs={"x": Literal("1")})


@pytest.mark.parametrize(
    "change",
    [
        *({"component": "t"}, {"version": "2"}, {"code": "c"}, {"source": "b"}, {"command": "ls -l"}),
        *({"inputs": {"x": Literal("2")}}, {"inputs": {"y": Literal("1")}}, {"inputs": {"x": File("/x", "1")}}),
        *({"outputs": {"o": "uri_file"}}, {"variables": {"A": "2"}}, {"environment": "e"}),
        *({"processes": 2}, {"processes": 1, "nodes": 2}),
    ],
    ids=lambda change: "-".join(change),
)
def test_what_changes_a_result_changes_the_key(change: dict[str, Any]) -> None:
    """And what only says where, how long and for whom a step runs does not."""
    same = replace(KEYED, timeout_s=5, name="t", display_name="T", exclusive=True)

    assert key(KEYED) != key(replace(KEYED, **change))
    assert key(KEYED) == key(same, Path("/elsewhere"))


def test_a_file_counts_by_its_content_and_by_how_it_is_read() -> None:
    """Its suffix says whether bytes are JSON lines or a table; where it lies does not matter."""
    table, moved, lines = (
        key(replace(KEYED, inputs={"x": File(path, "d1")})) for path in ("/a.csv", "/b/c.csv", "/a.jsonl")
    )

    assert table == moved
    assert table != lines


def test_another_python_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of one installation is not reused in another."""
    before = key(KEYED)
    environment_id.cache_clear()
    monkeypatch.setattr("sys.version", "4.0")
    try:
        assert key(KEYED) != before
    finally:
        environment_id.cache_clear()


CONTRACT = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")


def test_ranks_get_the_contract_and_one_port(run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of two processes: four ranks, prefixed lines, one free port for all, and their share of the cores.

    One rank alone has no prefix.
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = max(1, (os.cpu_count() or 1) // 4)
    show = "bash -c 'echo " + " ".join(f"${name}" for name in (*CONTRACT, "MASTER_PORT")) + "'"
    job = run(step("main", show, processes=2, nodes=2))
    single = run(step("main", "echo alone", processes=1))
    lines = sorted(log(workspace, job).splitlines())
    ports = {line.split()[-1] for line in lines}

    assert [line.rpartition(" ")[0] for line in lines] == [
        f"[rank {rank}] {rank} {rank % 2} {rank // 2} 4 2 127.0.0.1 {cores}" for rank in range(4)
    ]
    assert len(ports) == 1
    assert log(workspace, single) == "alone\n"


def test_a_failed_rank_ends_the_others_and_speaks_for_the_step(run: Run, workspace: Workspace) -> None:
    """Its last lines are the step's, and nothing of the other ranks is left."""
    script = 'if [ $RANK = 1 ]; then sleep 0.3; echo "no memory"; exit 9; fi; echo working; sleep 1007; sleep 1007'
    started = time.monotonic()
    job = run(step("main", f"bash -c '{script}'", processes=3))
    error = workspace.jobs.row(job).error or {}

    assert error["what"] == "rank 1 ended with exit code 9: no memory"
    assert error["lines"][-2:] == ["rank 1 ended with exit code 9; its last lines:", "no memory"]
    assert rows(workspace, job)["main"].rc == 9
    assert shim.kill_leftovers(workspace.jobs.folder / job / "main" / "attempt-1") == 0
    assert time.monotonic() - started < 60


def test_a_rank_that_a_signal_without_a_name_ended_is_told(run: Run, workspace: Workspace) -> None:
    """Most of the real-time signals have only a number."""
    job = run(step("main", "bash -c 'kill -40 $$'", processes=1))

    assert "rank 0 was killed by signal 40: it printed nothing" in workspace.jobs.result(job)["error"]


def test_a_launcher_that_cannot_start_its_command_says_so(run: Run, workspace: Workspace) -> None:
    """As a shell would, with 127."""
    job = run(step("main", "no-such-program", processes=2))

    assert "ended with exit code 127: cannot start no-such-program" in workspace.jobs.result(job)["error"]


def test_half_a_line_of_a_rank_reaches_the_log(run: Run, workspace: Workspace) -> None:
    """So does a line that is longer than a pipe, in pieces."""
    job = run(step("main", "bash -c 'printf %0200000d 7; printf end'", processes=2))
    text = log(workspace, job)

    assert text.count("0") >= 2 * 199_999
    assert text.count("end") == 2


def test_named_outputs_become_assets_of_the_job(run: Run, workspace: Workspace) -> None:
    """Models and data, by the job itself, once; the next number without a version."""
    from penala.workspace.tail import OutputAsset

    write = "bash -c 'echo 1 > $1/x' - ${{outputs.out}}"
    kinds = {"custom_model": "m", "uri_folder": "d"}
    tail = Tail(mlflow=False, assets=tuple(OutputAsset("main_out", kind, name) for kind, name in kinds.items()))
    job = run(step("main", write), tail=tail)
    run(step("main", write), tail=tail)
    row = workspace.data.get("d")

    assert workspace.jobs.row(job).status == "Completed", workspace.jobs.result(job)
    assert (row.version, row.job, row.type) == ("1", job, "uri_folder")
    assert workspace.data.path(row) == workspace.jobs.outputs(job)["main_out"]
    assert [(one["name"], one["version"]) for one in workspace.jobs.row(job).result["assets"]["models"]] == [("m", "1")]  # type: ignore[index]


def test_a_note_does_not_stick_to_half_a_line(tmp_path: Path) -> None:
    """A killed writer may have left one."""
    folder = StepFolder(tmp_path, "j", step("s", "ls"), {})
    folder.folder.mkdir(parents=True)
    folder.events.write_text('{"event": "prog')
    folder.note("hello")

    assert json.loads(folder.events.read_text().splitlines()[1]) == {"event": "note", "text": "hello"}
    with pytest.raises(JobError, match="ended without writing its output out"):
        folder.digest_outputs(1)
