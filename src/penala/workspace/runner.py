"""Run one job to its end: `python -m penala.workspace.runner WORKSPACE JOB`, one process a job, detached.

It may be killed at any instruction and started again: what it knows is in the store and on the disk. A step's row
says Running before its shim is spawned, so a step that lives is found and adopted, and one that died with its shim, or
by somebody's SIGKILL, is seen as lost, buried, and run again. Result, cache entry and lineage of a step land in one
transaction, after its outputs were moved to their digests.

Steps run side by side as far as the plan's slots go. When one fails, or the job is canceled, the others are ended, and
those that have not started are Canceled; with `continue_on_step_failure` only those that depend on the failed one.
"""

import contextlib
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import JobError, PenalaError
from penala.workspace import shim
from penala.workspace.artifacts import Digests
from penala.workspace.client import Workspace
from penala.workspace.events import RUNNER_LOCK
from penala.workspace.mlflow_mirror import Mirror, experiment_name
from penala.workspace.plan import File, Literal, Plan, Step, feeders
from penala.workspace.steps import StepFolder
from penala.workspace.store import CacheRow, JobRow, LineageRow, StepRow, Store, explain
from penala.workspace.tail import TailRunner

if TYPE_CHECKING:
    import subprocess

POLL_S = 0.2  # how soon a cancel is seen; the end of a step wakes the runner at once
MOST_LOST = 20  # attempts of a step in one runner's life: a command that kills its own shim must not run for ever
MOST_KILLED = 3  # of them by a SIGKILL of the command alone: it may be the command's own
GOODBYE_S = 0.4  # that MLflow gets at the end of a cancel, of which it has heard before
LIVE = ("Running", "Finalizing")


class Runner:
    """The loop over one job's steps, and its tail."""

    def __init__(self, workspace: Workspace, job: str) -> None:
        self.workspace = workspace
        self.store = workspace.store
        self.job = job
        row = self._job()
        self.plan = Plan.from_json(row.spec["plan"])
        self.plans = {step.name: step for step in self.plan.steps}
        self.force_rerun = bool(row.spec["force_rerun"])
        self.experiment = experiment_name(row)
        self.mirror = Mirror(workspace.folder, job) if row.spec["tail"]["mlflow"] else None
        self.digests = Digests(self.store)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.lost: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.looked_up: set[str] = set()

    # -- the job --

    def run(self) -> str:
        """Run what is left of the job; return the status that it ends with."""
        row = self._job()
        if row.ended is not None:
            return row.status
        self._set_job(status="Running", started=row.started or time.time())
        try:
            status, error = self._run_steps()
            if status == "Completed":
                self._set_job(status="Finalizing")
                status = self._run_tail()
        except PenalaError as failure:
            status, error = "Failed", _described(failure)
        except OSError as failure:
            status, error = "Failed", _described(explain(failure, self.workspace.folder))
        except Exception as failure:  # a bug of ours must not leave a job that looks alive
            import traceback

            traceback.print_exc()
            log = self.workspace.folder / "jobs" / self.job / "runner.log"
            what = f"the runner failed: {type(failure).__name__}: {failure}"
            status, error = "Failed", {"what": what, "where": None, "fix": f"see {log}"}
        self._stop_steps()
        self._set_job(status=status, ended=time.time(), error=error)
        with contextlib.suppress(OSError):
            self._part_with_mirror(status)
        return status

    def _run_steps(self) -> tuple[str, dict[str, Any] | None]:
        """Run the steps; return Completed, Failed or Canceled, and why."""
        while True:
            rows = self._steps()
            ended = [self._watch(row, rows) for row in self._live(rows)]
            if any(ended):
                rows = self._steps()
            live = self._live(rows)
            failed = sorted((row for row in rows.values() if row.status == "Failed"), key=lambda row: row.ended or 0)
            ending = self._is_ending(rows)
            given_up = set(rows) if ending and not live else self._in_vain(rows)
            self._give_up(rows, given_up)
            if ending:
                for row in live:
                    shim.stop(self._folder(row, rows).attempt(row.attempt))
            elif self._start_ready(rows, live):
                continue  # a reused step makes others ready at once
            if not live and all(row.status != "NotStarted" or row.name in given_up for row in rows.values()):
                return ("Failed", failed[0].error) if failed else ("Canceled" if ending else "Completed", None)
            self._wait(live)

    def _is_ending(self, rows: Mapping[str, StepRow]) -> bool:
        """Tell whether no further step may start, and those that run must end."""
        failed = any(row.status == "Failed" for row in rows.values())
        return self._cancelled() or (failed and not self.plan.continue_on_step_failure)

    def _in_vain(self, rows: Mapping[str, StepRow]) -> set[str]:
        """Return the steps that wait for one that has failed; steps stand behind those that feed them."""
        broken = {name for name, row in rows.items() if row.status in ("Failed", "Canceled")}
        for step in self.plan.steps:
            if feeders(step) & broken:
                broken.add(step.name)
        return broken

    def _give_up(self, rows: Mapping[str, StepRow], names: set[str]) -> None:
        for name in names:
            if rows[name].status == "NotStarted":
                self._set_step(rows[name], status="Canceled")

    def _start_ready(self, rows: Mapping[str, StepRow], live: list[StepRow]) -> bool:
        """Reuse or start the steps whose feeders are done, as far as slots go; tell whether there was any."""
        done = {name for name, row in rows.items() if row.status == "Completed"}
        running = [self.plans[row.name] for row in live]
        before = len(running)
        moved = False
        for step in self.plan.steps:
            row = rows[step.name]
            if row.status != "NotStarted" or not feeders(step) <= done:
                continue
            alone = step.exclusive or any(other.exclusive for other in running)
            has_room = len(running) < self.plan.slots and not (alone and running)
            if step.name in self.looked_up and not (has_room and self._may_start(step, row)):
                continue
            try:
                folder = self._folder(row, rows)
                folder.check_files(self.digests)
                key = folder.key()
                if self._reuse(folder, row, key):
                    moved = True
                elif has_room and self._may_start(step, row):
                    self._start(folder, row, key)
                    running.append(step)
                self.looked_up.add(step.name)
            except JobError as error:
                self._fail(row, {**_described(error), "step": step.name})
                return True
        return moved or len(running) > before

    def _may_start(self, step: Step, row: StepRow) -> bool:
        """Tell whether the MLflow run of a user's step is there, or need not be waited for; see that it is made."""
        if self.mirror is None:
            return True
        with contextlib.suppress(OSError):
            self.mirror.start()
        return bool(step.code) or row.run is not None or self.mirror.is_late()

    def _run_tail(self) -> str:
        """Register, deploy and score, as far as the job asks for it; return Completed or Canceled."""
        mirror = self.mirror or Mirror(self.workspace.folder, self.job)
        with Store(self.store.path) as other:  # the tail looks for a cancel at any moment: not in a store that it uses
            tail = TailRunner(self.workspace, self._job(), self.plan, mirror, lambda: is_cancelled(other, self.job))
            return "Completed" if tail.run() else "Canceled"

    def _part_with_mirror(self, status: str) -> None:
        """See that a job that did not complete is that in MLflow too, without anybody waiting for it."""
        if self.mirror is None or status == "Completed":
            return
        if status == "Failed" and any(row.attempt for row in self._steps().values()):
            self.mirror.start()  # unless it lives: it sees what is to be done, and ends
        else:
            self.mirror.wait(GOODBYE_S if self._job().run else 0.0)  # without a run, it has only begun to load MLflow

    def _stop_steps(self) -> None:
        """Leave no step behind when the runner ends for a reason that is not a step's own end."""
        rows = self._steps()
        left = [row for row in rows.values() if row.status == "Running"]
        folders = {row.name: self._folder(row, rows).attempt(row.attempt) for row in left}
        for folder in folders.values():
            shim.stop(folder)
        for row in left:
            while shim.alive(folders[row.name]):
                self._wait([row])
            self._set_step(row, status="NotStarted")

    # -- one step --

    def _start(self, folder: StepFolder, row: StepRow, key: str) -> None:
        """Start the step's next attempt."""
        if row.attempt:
            folder.bury(row.attempt)
        number = row.attempt + 1
        self._say(f"step {row.name}: attempt {number}")
        now = time.time()
        self._set_step(row, status="Running", attempt=number, key=key, started=now, ended=None, rc=None, error=None)
        self.children[row.name] = folder.start(number, self._variables(folder, row))

    def _variables(self, folder: StepFolder, row: StepRow) -> dict[str, str]:
        """Return what a job of Azure ML finds in its environment."""
        found = {
            "AZUREML_RUN_ID": self.job if self.plan.kind == "command" else f"{self.job}-{row.name}",
            "AZUREML_ROOT_RUN_ID": self.job,
            "AZUREML_EXPERIMENT_NAME": self.experiment,
        }
        if self.mirror is not None:
            found |= self.mirror.variables(self.experiment, row.run)
            if row.run is None and not self.plans[row.name].code:
                folder.note("MLflow did not start in time: what the step logs there is no run of this job")
        return found

    def _reuse(self, folder: StepFolder, row: StepRow, key: str) -> bool:
        """Take the step's outputs from the cache, if they may be and are there."""
        if self.force_rerun or not folder.step.deterministic:
            return False
        with self.store.transaction():  # what was looked at must not be collected before a row names it
            known = self.store.get(CacheRow, key=key)
            if known is None or not all(folder.artifact(digest).exists() for digest in known.outputs.values()):
                return False
            origin = f"{known.job}/{known.step}"
            now = time.time()
            self._set_step(
                row,
                status="Completed",
                key=key,
                reused_from=origin,
                outputs=known.outputs,
                figures=known.figures,
                started=now,
                ended=now,
            )
            self._record_lineage(folder, known.outputs)
        self._say(f"step {row.name}: reused from {origin}")
        return True

    def _watch(self, row: StepRow, rows: Mapping[str, StepRow]) -> bool:
        """Take notice of a running step's end; tell whether it has ended."""
        folder = self._folder(row, rows)
        if row.status == "Finalizing":
            self._finish(folder, row, row.outputs or {})
            return True
        attempt = folder.attempt(row.attempt)
        if shim.alive(attempt):
            return False
        if row.name in self.children:
            self.children.pop(row.name).wait()  # the lock is free: it is dead, or about to be
        end = shim.read_exit(attempt)
        if end is not None and end["stopped"] and self._is_ending(rows):
            self._set_step(row, status="Canceled", rc=end["rc"], ended=end["ended"])
        elif end is None or end["stopped"] or self._may_be_killed_again(folder, row, end["rc"]):
            self._lose(folder, row)
        elif end["rc"] != 0 or end.get("timed_out"):
            self._fail(row, folder.failure(row.attempt, end), rc=end["rc"], ended=end["ended"])
        else:
            self._collect(folder, row, end)
        return True

    def _may_be_killed_again(self, folder: StepFolder, row: StepRow, code: int) -> bool:
        """Tell whether a command was killed from outside, so that another attempt is worth while."""
        if not folder.was_killed(row.attempt, code):
            return False
        self.killed[row.name] += 1
        return self.killed[row.name] <= MOST_KILLED

    def _collect(self, folder: StepFolder, row: StepRow, end: dict[str, Any]) -> None:
        """Keep what a finished step wrote. Its digests are recorded before anything moves: a crash loses nothing."""
        try:
            folder.check_files(self.digests, after=True)
            outputs = folder.digest_outputs(row.attempt)
        except JobError as error:
            self._fail(row, {**_described(error), "step": row.name}, rc=0, ended=end["ended"])
            return
        self._set_step(row, status="Finalizing", outputs=outputs, figures=folder.figures(), rc=0, ended=end["ended"])
        self._finish(folder, row, outputs)

    def _finish(self, folder: StepFolder, row: StepRow, outputs: dict[str, str]) -> None:
        if not folder.keep_outputs(outputs, row.attempt):
            self._lose(folder, row)
            return
        with self.store.transaction():
            self._set_step(row, status="Completed")
            done = self.store.get(StepRow, job=self.job, name=row.name)
            assert done is not None
            assert done.key is not None
            self.store.insert(CacheRow(done.key, outputs, done.figures, self.job, row.name), replace=True)
            self._record_lineage(folder, outputs)
        self._say(f"step {row.name}: completed")

    def _lose(self, folder: StepFolder, row: StepRow) -> None:
        """Make a step that died with its shim run again, once nothing of it is left."""
        self.lost[row.name] += 1
        self._say(f"step {row.name}: attempt {row.attempt} is lost")
        folder.bury(row.attempt)
        if self.lost[row.name] > MOST_LOST:
            log = folder.attempt(row.attempt) / "log.txt"
            what = f"its attempts were killed {self.lost[row.name]} times without an exit record"
            self._fail(row, {"what": what, "where": f"step {row.name}", "fix": f"see {log}", "step": row.name})
        else:  # to be started again, or canceled with the others; what it logged to its run is no result
            self._set_step(row, status="NotStarted", outputs=None, run=None)

    def _fail(self, row: StepRow, error: dict[str, Any], **values: Any) -> None:
        self._say(f"step {row.name}: failed: {error['what']}")
        self._set_step(row, **{"status": "Failed", "ended": time.time(), "error": error, **values})

    def _record_lineage(self, folder: StepFolder, outputs: dict[str, str]) -> None:
        """Record each output as the child of each file and output that went in; literals are in the job's plan."""
        step = folder.step
        for name, value in step.inputs.items():
            if isinstance(value, Literal):
                continue
            parent = value.digest if isinstance(value, File) else folder.upstream[value.step][value.output]
            for child in outputs.values():
                row = LineageRow(child, f"{step.component}.{name}", parent, self.job)
                self.store.insert(row, replace=True)

    # -- store and clock --

    def _wait(self, live: list[StepRow]) -> None:
        """Sleep until a live step's shim ends, or until it is time to look for a cancel."""
        poller = select.poll()
        handles = []
        for row in live:
            pids = shim.read_pids(self.workspace.folder / "jobs" / self.job / row.name / f"attempt-{row.attempt}")
            if pids is not None:
                with contextlib.suppress(ProcessLookupError):
                    handles.append(os.pidfd_open(pids["shim"]))
                    poller.register(handles[-1], select.POLLIN)
        poller.poll(POLL_S * 1000)
        for handle in handles:
            os.close(handle)

    def _folder(self, row: StepRow, rows: Mapping[str, StepRow]) -> StepFolder:
        step = self.plans[row.name]
        upstream = {name: rows[name].outputs or {} for name in feeders(step)}
        return StepFolder(self.workspace.folder, self.job, step, upstream)

    @staticmethod
    def _live(rows: Mapping[str, StepRow]) -> list[StepRow]:
        return [row for row in rows.values() if row.status in LIVE]

    def _steps(self) -> dict[str, StepRow]:
        return {row.name: row for row in self.store.find(StepRow, order="position", job=self.job)}

    def _job(self) -> JobRow:
        row = self.store.get(JobRow, name=self.job)
        if row is None:
            raise JobError(f"there is no job '{self.job}'", where=str(self.workspace.folder))
        return row

    def _cancelled(self) -> bool:
        return is_cancelled(self.store, self.job)

    def _set_job(self, **values: Any) -> None:
        self.store.update(JobRow, {"name": self.job}, **values)

    def _set_step(self, row: StepRow, **values: Any) -> None:
        self.store.update(StepRow, {"job": row.job, "name": row.name}, **values)

    def _say(self, text: str) -> None:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


def is_cancelled(store: Store, job: str) -> bool:
    """Tell whether somebody asked for the end of a job."""
    return bool(store.sql("select cancel from jobs where name = ?", job)[0][0])


def _described(error: PenalaError) -> dict[str, Any]:
    return {"what": error.what, "where": error.where, "fix": error.fix, "exit_code": error.exit_code}


def main(folder: Path, job: str, lock: int | None = None) -> int:
    """Run a job unless another runner has it; return the exit code. `lock` is what the caller took for it already."""
    try:
        (folder / "jobs" / job).mkdir(parents=True, exist_ok=True)
        held = lock if lock is not None else shim.take(folder / "jobs" / job / RUNNER_LOCK)
        if held is None:
            raise JobError("another runner has it", where=job)
        os.set_inheritable(held, False)
        os.chdir(folder)
        with Workspace.open(folder) as workspace:
            return 0 if Runner(workspace, job).run() == "Completed" else 1
    except PenalaError as error:  # the store itself cannot be used: whoever follows sees that the runner is gone
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
