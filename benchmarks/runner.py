"""What the workspace itself costs: a step's CPU, a run that only reuses, a long list of jobs, an idle supervisor.

python benchmarks/runner.py [--steps 50] [--jobs 10000]
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from penala.workspace.client import Workspace
from penala.workspace.plan import Plan, Step
from penala.workspace.store import JobRow
from penala.workspace.supervisor import ensure
from penala.workspace.tail import Tail

NO_TAIL = Tail(mlflow=False)  # MLflow has a process of its own
IDLE_S = 10.0
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=10_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="penala-bench-"))
    try:
        with Workspace.open(folder / "ws", create=True) as workspace:
            print("| what | measured | bound |\n| --- | --- | --- |")
            for what, measured, bound in measure(workspace, options.steps, options.jobs):
                print(f"| {what} | {measured} | {bound} |", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(workspace: Workspace, steps: int, jobs: int):
    """Yield (what, measured, bound)."""
    bare = cpu_of([["bash", "-c", "true"]] * steps) / steps
    ours = [(cpu_of([runner(workspace, submit(workspace, steps))]) / steps - bare) * 1000 for _ in range(3)]
    yield f"CPU of runner and shim a step, {steps} steps `true`", f"{statistics.median(ours):.0f} ms", "60 ms"
    yield "the same of `bash -c true` without them", f"{bare * 1000:.1f} ms", ""
    again = [wall_of(runner(workspace, submit(workspace, steps, force=False))) for _ in range(3)]
    yield f"a runner that reuses {steps} steps", f"{statistics.median(again):.2f} s", "2 s"
    fill(workspace, jobs)
    listed = [wall_of(cli(workspace, "jobs", "list")) for _ in range(5)]
    yield f"`penala jobs list` with {jobs} jobs", f"{statistics.median(listed):.2f} s", "0.3 s"
    helped = [wall_of(cli(workspace, "--version")) for _ in range(5)]
    yield "`penala --version`", f"{statistics.median(helped):.2f} s", ""
    memory, cpu = supervisor(workspace)
    yield "supervisor with one endpoint, memory", f"{memory / 1e6:.0f} MB", "30 MB"
    yield f"supervisor with one endpoint, CPU over {IDLE_S:.0f} s", f"{cpu / IDLE_S * 100:.1f} %", "0 %"


def submit(workspace: Workspace, count: int, *, force: bool = True) -> str:
    """Make a job of so many steps."""
    steps = tuple(Step(f"s{n}", f"s{n}", f"s{n}", "1", "", "bash -c true", "", {}, {}) for n in range(count))
    plan = Plan("bench", "1", "Bench", steps, {})
    return workspace.jobs.submit(plan, NO_TAIL, force_rerun=force, continue_unfinished=False)


def runner(workspace: Workspace, job: str) -> list[str]:
    return [sys.executable, "-P", "-m", "penala.workspace.runner", str(workspace.folder), job]


def cli(workspace: Workspace, *words: str) -> list[str]:
    return [sys.executable, "-m", "penala", "--workspace", str(workspace.folder), *words]


def cpu_of(commands: list[list[str]]) -> float:
    """Return the CPU seconds of commands with all that they waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wall_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def fill(workspace: Workspace, count: int) -> None:
    """Add ended jobs whose plans are as long as that of a recipe."""
    spec = {"plan": {"steps": ["x" * 2000] * 10}, "tail": {}, "force_rerun": False}
    with workspace.store.transaction():
        for number in range(count):
            at = time.time() - number * 60
            name = f"filler-{number:05}"
            workspace.store.insert(
                JobRow(name, "Filler", "pipeline", "Completed", spec, name, created=at, started=at, ended=at + 50)
            )


def supervisor(workspace: Workspace) -> tuple[int, float]:
    """Return memory and CPU seconds of a supervisor that has one endpoint without deployments to watch."""
    workspace.endpoints.create("idle")
    ensure(workspace.folder)
    pid = next(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_supervisor(pid, workspace))
    time.sleep(5)
    before = cpu_s(pid)
    time.sleep(IDLE_S)
    used = cpu_s(pid) - before
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    workspace.endpoints.delete("idle")
    return memory, used


def is_supervisor(pid: int, workspace: Workspace) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"penala.workspace.supervisor" in words and os.fsencode(workspace.folder) in words


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    main()
