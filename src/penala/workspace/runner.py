"""Run one job to its end: `python -m penala.workspace.runner WORKSPACE JOB`, one process a job, detached.

It may be killed at any instruction and started again: what it knows is in the store and on the disk. A step's row
says Running before its shim is spawned, so a step that lives is found and adopted, and one that died with its shim is
seen as lost, buried, and run again. Result, cache entry and lineage of a step land in one transaction, after its
outputs were moved to their digests.
"""

import contextlib
import os
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import JobError, PenalaError
from penala.workspace import shim
from penala.workspace.artifacts import Digests
from penala.workspace.client import Workspace
from penala.workspace.events import RUNNER_LOCK
from penala.workspace.plan import File, Literal, Plan, Step, feeders
from penala.workspace.steps import StepFolder
from penala.workspace.store import CacheRow, JobRow, LineageRow, StepRow, Store, explain
from penala.workspace.tail import TailRunner

if TYPE_CHECKING:
    import subprocess

POLL_S = 0.2  # how soon a cancel is seen; the end of a step wakes the runner at once
SLOTS = 1  # steps that run side by side
MOST_LOST = 20  # attempts in one runner's life: a command that kills its own shim must not run for ever


class Runner:
    """The loop over one job's steps, and its tail."""

    def __init__(self, workspace: Workspace, job: str) -> None:
        self.workspace = workspace
        self.store = workspace.store
        self.job = job
        spec = self._job().spec
        self.plan = Plan.from_json(spec["plan"])
        self.force_rerun = bool(spec["force_rerun"])
        self.digests = Digests(self.store)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.lost = 0

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
        return status

    def _run_steps(self) -> tuple[str, dict[str, Any] | None]:
        """Run the steps; return Completed, Failed or Canceled, and why."""
        while True:
            for row in self._steps().values():
                if row.status in ("Running", "Finalizing"):
                    self._watch(row)
            rows = self._steps()
            live = [row for row in rows.values() if row.status in ("Running", "Finalizing")]
            failed = next((row for row in rows.values() if row.status == "Failed"), None)
            if self._cancelled() or failed:
                for row in live:
                    shim.stop(self._folder(row).attempt(row.attempt))
                if not live:
                    return ("Failed", failed.error) if failed else ("Canceled", None)
            elif all(row.status == "Completed" for row in rows.values()):
                return "Completed", None
            elif self._start_ready(rows, SLOTS - len(live)):
                continue  # a reused step makes others ready at once
            self._wait(live)

    def _start_ready(self, rows: dict[str, StepRow], slots: int) -> bool:
        """Start steps whose feeders are done, as many as there are slots; tell whether any was started."""
        done = {name for name, row in rows.items() if row.status == "Completed"}
        ready = [step for step in self.plan.steps if rows[step.name].status == "NotStarted" and feeders(step) <= done]
        for step in ready[:slots]:
            try:
                self._start(step, rows[step.name])
            except JobError as error:
                self._fail(rows[step.name], {**_described(error), "step": step.name})
        return bool(ready[:slots])

    def _run_tail(self) -> str:
        """Register, deploy and score, as far as the job asks for it; return Completed or Canceled."""
        with Store(self.store.path) as other:  # the tail looks for a cancel at any moment: not in a store that it uses
            tail = TailRunner(self.workspace, self._job(), self.plan, lambda: is_cancelled(other, self.job))
            return "Completed" if tail.run() else "Canceled"

    def _stop_steps(self) -> None:
        """Leave no step behind when the runner ends for a reason that is not a step's own end."""
        for row in self._steps().values():
            if row.status == "Running":
                folder = self._folder(row).attempt(row.attempt)
                shim.stop(folder)
                while shim.alive(folder):
                    self._wait([row])
                self._set_step(row, status="NotStarted")

    # -- one step --

    def _start(self, step: Step, row: StepRow) -> None:
        """Take the step's outputs from the cache, or start its next attempt."""
        folder = self._folder(row)
        folder.check_files(self.digests)
        key = folder.key()
        if step.deterministic and not self.force_rerun and self._reuse(folder, row, key):
            return
        if row.attempt:
            folder.bury(row.attempt)
        number = row.attempt + 1
        self._say(f"step {step.name}: attempt {number}")
        now = time.time()
        self._set_step(row, status="Running", attempt=number, key=key, started=now, ended=None, rc=None, error=None)
        self.children[step.name] = folder.start(number)

    def _reuse(self, folder: StepFolder, row: StepRow, key: str) -> bool:
        known = self.store.get(CacheRow, key=key)
        if known is None or not all(folder.artifact(digest).exists() for digest in known.outputs.values()):
            return False
        origin = f"{known.job}/{known.step}"
        self._say(f"step {row.name}: reused from {origin}")
        now = time.time()
        with self.store.transaction():
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
        return True

    def _watch(self, row: StepRow) -> None:
        """Take notice of a running step's end."""
        folder = self._folder(row)
        if row.status == "Finalizing":
            self._finish(folder, row, row.outputs or {})
            return
        attempt = folder.attempt(row.attempt)
        if shim.alive(attempt):
            return
        if row.name in self.children:
            self.children.pop(row.name).wait()  # the lock is free: it is dead, or about to be
        end = shim.read_exit(attempt)
        if end is None or (end["stopped"] and not self._cancelled()):
            self._lose(folder, row)
        elif end["stopped"]:
            self._set_step(row, status="Canceled", rc=end["rc"], ended=end["ended"])
        elif end["rc"] != 0:
            self._fail(row, folder.failure(row.attempt, end["rc"]), rc=end["rc"], ended=end["ended"])
        else:
            self._collect(folder, row, end)

    def _collect(self, folder: StepFolder, row: StepRow, end: dict[str, Any]) -> None:
        """Keep what a finished step wrote. Its digests are recorded before anything moves: a crash loses nothing."""
        try:
            folder.check_files(self.digests)
            outputs = folder.digest_outputs()
        except JobError as error:
            self._fail(row, {**_described(error), "step": row.name}, rc=0, ended=end["ended"])
            return
        self._set_step(row, status="Finalizing", outputs=outputs, figures=folder.figures(), rc=0, ended=end["ended"])
        self._finish(folder, row, outputs)

    def _finish(self, folder: StepFolder, row: StepRow, outputs: dict[str, str]) -> None:
        if not folder.keep_outputs(outputs):
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
        self.lost += 1
        self._say(f"step {row.name}: attempt {row.attempt} is lost")
        folder.bury(row.attempt)
        if self._cancelled():
            self._set_step(row, status="Canceled", ended=time.time())
        elif self.lost > MOST_LOST:
            log = folder.attempt(row.attempt) / "log.txt"
            what = f"its attempts were killed {self.lost} times without an exit record"
            self._fail(row, {"what": what, "where": f"step {row.name}", "fix": f"see {log}", "step": row.name})
        else:
            self._set_step(row, status="NotStarted", outputs=None)

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
            pids = shim.read_pids(self._folder(row).attempt(row.attempt))
            if pids is not None:
                with contextlib.suppress(ProcessLookupError):
                    handles.append(os.pidfd_open(pids["shim"]))
                    poller.register(handles[-1], select.POLLIN)
        poller.poll(POLL_S * 1000)
        for handle in handles:
            os.close(handle)

    def _folder(self, row: StepRow) -> StepFolder:
        step = next(step for step in self.plan.steps if step.name == row.name)
        upstream = {name: other.outputs or {} for name, other in self._steps().items() if name in feeders(step)}
        return StepFolder(self.workspace.folder, self.job, step, upstream)

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
