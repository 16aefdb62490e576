"""kill -9 of runner, shim and step: whoever comes next finishes the job, and two attempts never live at once."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penala.errors import JobError
from penala.workspace import shim
from penala.workspace.client import Workspace
from penala.workspace.jobs import Jobs
from penala.workspace.plan import Plan
from penala.workspace.store import CacheRow, StepRow
from penala.workspace.tail import Tail

from .conftest import JOIN, WRITE, read_text

NO_TAIL = Tail(mlflow=False)
# Every process of the step beats, also the second command of a script and a daemon; it goes on when told.
BEAT = """
import subprocess
beat = 'while :; do echo $PENALA_ATTEMPT >> {beats}; sleep 0.01; done'
subprocess.Popen(["bash", "-c", "(setsid bash -c '" + beat + "' &); (" + beat + ") & wait; " + beat])
while not (os.path.exists({go!r}) and os.path.exists("{beats}")): time.sleep(0.005)
"""


class Scene:
    """A job whose first step beats until it is told to go on."""

    def __init__(self, workspace: Workspace, plan: Callable[..., Plan], folder: Path) -> None:
        self.jobs: Jobs = workspace.jobs
        self.store = workspace.store
        self.beats, self.go = folder / "beats", folder / "go"
        script = BEAT.format(beats=self.beats, go=str(self.go)) + WRITE
        self.plan = plan("hello", write=script, join=JOIN)
        self.name = self.jobs.submit(self.plan, NO_TAIL)
        self.step = self.jobs.folder / self.name / "write"

    def start(self) -> None:
        """Start the runner and wait until the step beats in a new attempt."""
        before = self.beat_count()
        assert self.jobs.start(self.name)
        self.until(lambda: self.beat_count() > before + 3)

    def beat_count(self) -> int:
        return len(self.beats.read_bytes()) // 2 if self.beats.exists() else 0

    def attempt(self) -> Path:
        return self.step / f"attempt-{self.row().attempt}"

    def row(self) -> StepRow:
        return self.jobs.steps(self.name)[0]

    def kill_runner(self) -> None:
        for pid in self.jobs._runners:
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: not self.jobs.is_running(self.name))

    def kill(self, who: str) -> None:
        os.kill((shim.read_pids(self.attempt()) or {})[who], signal.SIGKILL)

    def finish(self) -> None:
        """Let the step go on and run the job to its end."""
        self.go.touch()
        self.jobs.start(self.name)
        for _ in self.jobs.follow(self.name, poll_s=0.01):
            pass
        self.until(lambda: not self.jobs.is_running(self.name))

    def check(self, attempts: int) -> None:
        """The job is complete and right, took that many attempts, and none beat after the next one had begun."""
        assert self.jobs.row(self.name).status == "Completed", self.jobs.result(self.name)["error"]
        assert read_text(self.jobs.outputs(self.name)["result"]) == "HELLO"
        assert self.row().attempt == attempts
        beats = [int(line) for line in self.beats.read_text().split()]
        assert beats == sorted(beats)
        count = self.beat_count()
        time.sleep(0.05)
        assert self.beat_count() == count

    @staticmethod
    def until(true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.005)


@pytest.fixture
def scene(workspace: Workspace, two_steps: Callable[..., Plan], tmp_path: Path) -> Iterator[Scene]:
    made = Scene(workspace, two_steps, tmp_path)
    yield made
    made.go.touch()


def test_a_running_step_is_adopted(scene: Scene) -> None:
    """After the runner's death the step runs on, and the next runner takes it over in the same attempt."""
    scene.start()
    scene.kill_runner()
    with pytest.raises(JobError, match=r"the runner of toy-.* is gone; run the same command again"):
        list(scene.jobs.follow(scene.name))
    scene.start()
    scene.finish()

    scene.check(attempts=1)


def test_a_step_that_ended_unwatched_is_not_run_again(scene: Scene) -> None:
    """What it wrote while no runner lived is kept."""
    scene.start()
    scene.kill_runner()
    scene.go.touch()
    scene.until(lambda: not shim.alive(scene.attempt()))
    scene.finish()

    scene.check(attempts=1)


def test_a_killed_shim_is_noticed_and_its_step_run_again(scene: Scene) -> None:
    """The running runner buries what the shim left and starts the next attempt by itself."""
    scene.start()
    count = scene.beat_count()
    scene.kill("shim")
    scene.until(lambda: scene.row().attempt == 2 and scene.beat_count() > count + 3)
    scene.finish()

    scene.check(attempts=2)


def test_a_killed_step_is_run_again_a_few_times(scene: Scene) -> None:
    """A kill from outside is no result; after three of them it is a failure with a reason, and goes on when asked."""
    scene.start()
    for attempt in range(1, 5):
        scene.until(lambda attempt=attempt: scene.row().attempt == attempt and shim.read_pids(scene.attempt()))
        scene.kill("command")
    scene.until(lambda: scene.jobs.row(scene.name).ended)

    assert "was killed by SIGKILL" in scene.jobs.result(scene.name)["error"]
    scene.start()
    scene.finish()
    scene.check(attempts=5)


def test_all_killed_at_once_as_in_a_power_cut(scene: Scene) -> None:
    """Nothing lives and every lock is free: the next runner starts the lost step again."""
    scene.start()
    scene.kill_runner()
    scene.kill("shim")
    shim_dead = lambda: not shim.alive(scene.attempt())  # noqa: E731
    scene.until(shim_dead)
    shim.kill_leftovers(scene.attempt())
    scene.start()
    scene.finish()

    scene.check(attempts=2)


def test_a_row_without_a_process_is_started_again(scene: Scene) -> None:
    """A runner that died between the row and the spawn leaves a step that says Running and never ran."""
    scene.store.update(StepRow, {"job": scene.name, "name": "write"}, status="Running", attempt=1, key="k")
    scene.finish()

    scene.check(attempts=2)


@pytest.mark.parametrize("moved", [True, False])
def test_a_move_that_was_interrupted_is_finished(scene: Scene, moved: bool) -> None:
    """A runner that died between the recorded digests and the result leaves outputs here or there: both are found."""
    scene.finish()
    row = scene.row()
    outputs = row.outputs
    assert outputs is not None
    artifact = scene.jobs.workspace.artifacts / outputs["out"]
    scene.store.update(StepRow, {"job": scene.name, "name": "write"}, status="Finalizing")
    scene.store.update(StepRow, {"job": scene.name, "name": "join"}, status="NotStarted", reused_from=None)
    scene.store.sql("update jobs set status = 'Running', ended = null")
    scene.store.delete(CacheRow)
    if not moved:
        (scene.step / "outputs").mkdir()
        artifact.rename(scene.step / "outputs" / "out")
    scene.finish()

    scene.check(attempts=1)
    assert scene.store.get(CacheRow, key=row.key) is not None


def test_outputs_that_are_nowhere_are_made_again(scene: Scene) -> None:
    """When neither place holds what was recorded, the step is lost and runs again."""
    scene.finish()
    outputs = scene.row().outputs
    assert outputs is not None
    artifact = scene.jobs.workspace.artifacts / outputs["out"]
    artifact.rename(artifact.with_name("elsewhere"))
    scene.store.update(StepRow, {"job": scene.name, "name": "write"}, status="Finalizing")
    scene.store.sql("update jobs set status = 'Running', ended = null")
    scene.store.delete(CacheRow)
    scene.finish()

    scene.check(attempts=2)


def test_a_cancel_without_a_runner_is_carried_out(scene: Scene) -> None:
    """When the runner is dead, canceling starts one that ends the step."""
    scene.start()
    scene.kill_runner()
    scene.jobs.cancel(scene.name)
    events = list(scene.jobs.follow(scene.name, poll_s=0.01))

    assert events[-1].data["status"] == "Canceled"
    assert not shim.alive(scene.attempt())
    scene.start()
    scene.finish()
    scene.check(attempts=2)


def test_a_follower_can_bring_a_runner_back(scene: Scene) -> None:
    """With `revive`, following goes on through the death of the runner, and tells each event once."""
    scene.start()
    seen = []
    for event in scene.jobs.follow(scene.name, revive=True, poll_s=0.01):
        seen.append((event.kind, event.name, event.data.get("status")))
        if seen[-1] == ("step", "write", "started"):
            scene.kill_runner()
            scene.go.touch()

    scene.check(attempts=1)
    assert [kind for kind, name, status in seen if name == "write"].count("step") == 2


def test_a_follower_gives_up_on_a_runner_that_gets_nothing_done(scene: Scene) -> None:
    """A runner that ends at once, again and again, is not started for ever."""
    scene.store.sql("update jobs set spec = json_remove(spec, '$.plan')")  # no runner can read it
    with pytest.raises(JobError, match=r"the runner of toy-.* is gone"):
        list(scene.jobs.follow(scene.name, revive=True, poll_s=0.01))

    assert not scene.jobs.is_running(scene.name)


def test_a_revived_cancel_stays_a_cancel(scene: Scene) -> None:
    """A runner that is killed while it carries a cancel out is replaced by one that does so too."""
    scene.start()
    scene.store.sql("update jobs set cancel = 1, status = 'CancelRequested'")
    scene.kill_runner()
    events = list(scene.jobs.follow(scene.name, revive=True, poll_s=0.01))

    assert events[-1].data["status"] == "Canceled"
    scene.start()
    scene.finish()
    scene.check(attempts=2)


def test_half_a_line_of_a_killed_writer_costs_no_event(scene: Scene) -> None:
    """The events of the next attempt do not stick to a line that the killed one left unfinished."""
    scene.start()
    with open(scene.step / "events.jsonl", "a", encoding="utf-8") as file:
        file.write('{"event": "progress", "do')
    scene.kill("shim")
    scene.until(lambda: scene.row().attempt == 2)
    scene.finish()
    lines = (scene.step / "events.jsonl").read_text().splitlines()

    assert [json.loads(line)["event"] for line in lines[1:]] == ["progress", "figures"]
    scene.check(attempts=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("PENALA_STRESS_RUNS", "5"))))
def test_any_kill_at_any_moment(
    workspace: Workspace, two_steps: Callable[..., Plan], tmp_path: Path, seed: int
) -> None:
    """Runner, shim, or any process of a step, killed at random moments: the job completes, with the same outputs."""
    chance = random.Random(seed)
    scene = Scene(workspace, two_steps, tmp_path)
    deadline = time.monotonic() + 120
    left = 8
    while scene.jobs.row(scene.name).status != "Completed":
        assert time.monotonic() < deadline
        scene.jobs.start(scene.name)
        time.sleep(chance.uniform(0, 0.7))
        if left <= 3:  # the last kills meet the end of the step and the step behind it
            scene.go.touch()
        if left and _kill_one(scene, chance):
            left -= 1
    scene.check(attempts=scene.row().attempt)
    again = scene.jobs.submit(scene.plan, NO_TAIL)
    scene.jobs.start(again)
    list(scene.jobs.follow(again))
    assert all(step.reused_from for step in scene.jobs.steps(again))


def _kill_one(scene: Scene, chance: random.Random) -> bool:
    """Kill one process of the workspace; tell whether there was one."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if str(scene.jobs.workspace.folder).encode() in words and pid != os.getpid():
            found.append(pid)
    if not found:
        return False
    try:
        os.kill(chance.choice(found), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
