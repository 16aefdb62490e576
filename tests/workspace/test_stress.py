"""kill -9 of anything at any moment: every run completes, no two attempts of a step live at once, same outputs.

Short by default. PENALA_STRESS_RUNS=50 makes it the long form, which must kill at least four times a run.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from penala.workspace.client import Workspace
from penala.workspace.plan import Plan, Step, Upstream
from penala.workspace.tail import Tail

from .test_steps import step

RUNS = int(os.environ.get("PENALA_STRESS_RUNS", "3"))
KILLS = 6  # a run, at most
TORCHRUN_EACH = 5  # runs: it takes seconds to load
STEPS = ("shell", "daemon", "ranks", "torchrun")
# Beats, then writes NAME into FOLDER; what must be there before is asked for first.
WORK = """
import os, sys, time
beats, folder, name, before = sys.argv[1:]
name += os.environ.get("RANK", "")
if before and not os.path.exists(folder + "/" + before): sys.exit(9)
for _ in range(60):
    with open(beats, "a") as file: file.write(os.environ["PENALA_ATTEMPT"] + "\\n")
    time.sleep(0.01)
with open(folder + "/" + name, "w") as file: file.write(name)
"""
BEAT = "while :; do echo $PENALA_ATTEMPT >> {beats}; sleep 0.01; done"


class Stress:
    """One workspace, jobs of every kind of command, and somebody who kills."""

    def __init__(self, workspace: Workspace, folder: Path, chance: random.Random) -> None:
        self.workspace, self.jobs, self.chance = workspace, workspace.jobs, chance
        self.folder = folder
        (folder / "work.py").write_text(WORK)
        self.killed: Counter[str] = Counter()
        self.watcher: subprocess.Popen[bytes] | None = None

    def plan(self, number: int, names: tuple[str, ...]) -> Plan:
        """Return a job of steps side by side, and one behind them; beats go to files of this run."""

        def work(name: str, written: str, before: str = "") -> str:
            beats = self.folder / f"beats-{number}-{name}"
            return f'{{python}} {self.folder}/work.py {beats} ${{{{outputs.out}}}} {written} "{before}"'

        python = f"{sys.executable} -I -S"
        daemon = BEAT.format(beats=self.folder / f"beats-{number}-daemon")
        commands = {
            "shell": f"bash -c '{work('shell', 'a')}; {work('shell', 'b', 'a')}'".replace("{python}", python),
            "daemon": f"bash -c '(setsid bash -c \"{daemon}\" &) ; {work('daemon', 'c')}'".replace("{python}", python),
            "ranks": work("ranks", "rank").replace("{python}", python),
            "torchrun": work("torchrun", "rank").replace("{python}", "torchrun --nproc-per-node 2"),
        }
        steps = [step(name, commands[name], processes=2 if name == "ranks" else 0) for name in names]
        sources = {name: Upstream(name, "out") for name in names}
        join = "cat " + " ".join(f"${{{{inputs.{name}}}}}/*" for name in names)
        last = step("join", f"bash -c '{join} > ${{{{outputs.out}}}}/all'", inputs=sources)
        outputs = {one.name: Upstream(one.name, "out") for one in (*steps, last)}
        return Plan("toy", "1", "Stress", (*steps, last), outputs, slots=3)

    def run(self, number: int, names: tuple[str, ...], kills: int) -> dict[str, dict[str, str] | None]:
        """Run a job through so many kills to its end; return the digests of its steps' outputs."""
        plan = self.plan(number, names)
        name = self.jobs.submit(plan, Tail(mlflow=False), force_rerun=True)
        deadline = time.monotonic() + 240
        while self.jobs.row(name).status != "Completed" or self.jobs.is_running(name):
            assert time.monotonic() < deadline, self.jobs.show(name)
            if self.jobs.row(name).status in ("Queued", "Failed"):
                self.jobs.start(name)
            if self.watcher is None or self.watcher.poll() is not None:
                self.watch(name)
            time.sleep(self.chance.uniform(0.02, 0.3))
            if kills and self.kill():
                kills -= 1
        assert self.watcher is not None
        self.watcher.wait(60)
        self.check_beats(number, plan.steps)
        return {row.name: row.outputs for row in self.jobs.steps(name)}

    def watch(self, name: str) -> None:
        """Follow the job as a user does, in a process that may be killed too; it brings a dead runner back."""
        argv = [sys.executable, "-m", "penala", "--workspace", str(self.workspace.folder), "jobs", "stream", name]
        self.watcher = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> bool:
        """Kill one process: of the kind that was spared most or of any, by chance; which of them, by chance."""
        kinds: dict[str, list[int]] = {}
        for pid, words in self.processes():
            shell = words.startswith((b"bash", b"sh\0"))
            named = {
                b"jobs\0stream": "CLI",
                b"workspace.runner": "runner",
                b"workspace/__pycache__/shim.": "shim",
                b"workspace/shim.py": "shim",
                b"ranks.py": "launcher",
            }
            kind = next((kind for mark, kind in named.items() if mark in words), "shell" if shell else "step")
            kinds.setdefault(kind, []).append(pid)
        if not kinds:
            return False
        if not kinds.keys() - {"CLI", "runner"} and self.chance.random() < 0.8:
            return False  # steps must come to life: what is always there would be killed all the time
        spared = min(sorted(kinds), key=lambda kind: self.killed[kind])
        kind = spared if self.chance.random() < 0.7 else self.chance.choice(sorted(kinds))
        try:
            os.kill(self.chance.choice(kinds[kind]), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[kind] += 1
        return True

    def processes(self) -> list[tuple[int, bytes]]:
        """Return the processes of the workspace, each with its command line."""
        place, found = os.fsencode(self.workspace.folder), []
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                everything = words + Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if place in everything and words and pid != os.getpid():
                found.append((pid, words))
        return found

    def check_beats(self, number: int, steps: tuple[Step, ...]) -> None:
        """No attempt of a step beat after the next one had begun, and none beats now."""
        assert self.processes() == []
        for one in steps:
            path = self.folder / f"beats-{number}-{one.name}"
            beats = [int(line) for line in path.read_text().split()] if path.exists() else []
            assert beats == sorted(beats), f"{one.name}: two attempts lived at once"
            assert one.name == "join" or len(beats) > 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_run_completes_whatever_is_killed(workspace: Workspace, tmp_path: Path) -> None:
    """CLI, runner, shim, launcher, shell and step, killed at random moments over runs of steps side by side."""
    stress = Stress(workspace, tmp_path, random.Random(os.environ.get("PENALA_STRESS_SEED", "5")))
    expected = stress.run(-1, STEPS, kills=0)
    attempts = 0
    for number in range(RUNS):
        names = STEPS if number % TORCHRUN_EACH == 0 else STEPS[:3]
        outputs = stress.run(number, names, KILLS)
        for name in names:
            assert outputs[name] == expected[name]
        attempts += sum(row.attempt for row in workspace.jobs.steps(workspace.jobs.list(1)[0].name))
    total = sum(stress.killed.values())
    print(f"\n{total} kills over {RUNS} runs ({dict(stress.killed)}), {attempts} attempts of steps")

    assert total >= 4 * RUNS
