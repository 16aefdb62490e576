"""Pipeline jobs: make, start, follow, cancel, read. The work itself is done by a detached runner, one a job."""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from penala.errors import JobError, NotFound, PenalaError, UsageError, near
from penala.workspace import shim
from penala.workspace.artifacts import Digests, digest, loosen
from penala.workspace.events import ENDED, RUNNER_LOCK, Event, Follower
from penala.workspace.plan import File, Plan
from penala.workspace.store import JobRow, JobSummary, StepRow, explain

if TYPE_CHECKING:
    from penala.workspace.client import Workspace
    from penala.workspace.tail import Tail

POLL_S = 0.1
MOST_REVIVALS = 3  # of a runner that dies while it is followed, and gets nothing done in between
GOODBYE_S = 2.0  # for the runner of a canceled job, which parts with MLflow
_PATIENCE_S = 10.0  # for a runner that is about to end


class Jobs:
    """The jobs of a workspace."""

    _runners: ClassVar[set[int]] = set()  # of this process; whoever opens a workspace next buries those that ended

    def __init__(self, workspace: "Workspace") -> None:
        self.folder = workspace.folder / "jobs"
        self.workspace = workspace
        self.store = workspace.store
        self.digests = Digests(workspace.store)
        self._reap()

    # -- making and running --

    def submit(
        self,
        plan: Plan,
        tail: "Tail",
        *,
        display_name: str | None = None,
        force_rerun: bool = False,
        continue_unfinished: bool = True,
        continue_abandoned: bool = False,
        name: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> str:
        """Make a job, not yet started, and return its name; raise UsageError when `name` is that of another job.

        With `continue_unfinished` it is the latest job of the same plan and tail, unless that one is Completed; with
        `continue_abandoned` only one of which the same is said, and which has begun and lost its runner. `about` is
        what is said of the job beside what it runs: experiment_name, description, tags, properties.
        """
        spec = {"plan": plan.to_json(), "tail": tail.to_json(), "force_rerun": force_rerun}
        identity = digest(["job/1", plan.digest, spec["tail"], force_rerun])
        with self.store.transaction():  # two that submit the same at once get one job
            known = self.find_unfinished(identity) if continue_unfinished else None
            display_name = display_name or plan.display_name
            if known is None and continue_abandoned:
                known = self._find_abandoned(identity, name, display_name, about)
            if known is not None:
                return known
            if name is not None and self.store.get(JobSummary, name=name) is not None:
                raise UsageError("a job has this name already", where=name, fix="choose another name")
            name = name or _new_name(display_name)
            more: dict[str, Any] = {"created": time.time(), "about": dict(about) if about else None}
            self.store.insert(JobRow(name, display_name, plan.kind, "Queued", spec, identity, **more))
            for position, step in enumerate(plan.steps):
                self.store.insert(StepRow(name, step.name, position))
        return name

    def rerun(self, name: str, *, force: bool = False) -> str:
        """Make a new job of what a job runs, not yet started, and return its name; with `force` it reuses nothing.

        Raises JobError when a file that it reads is not what it was: that would be another job.
        """
        from penala.workspace.tail import Tail

        row = self.row(name)
        plan = Plan.from_json(row.spec["plan"])
        for value in {value for step in plan.steps for value in step.inputs.values() if isinstance(value, File)}:
            try:
                same = self.digests(Path(value.path)) == value.digest
            except OSError:
                same = False
            if not same:
                fix = "make a new job of its document or recipe"
                raise JobError(f"it has changed since {name} was made, or is gone", where=value.path, fix=fix)
        return self.submit(
            plan,
            Tail.from_json(row.spec["tail"]),
            display_name=row.display_name,
            force_rerun=force or bool(row.spec["force_rerun"]),
            continue_unfinished=False,
            about=row.about,
        )

    def find_unfinished(self, identity: str) -> str | None:
        """Return the latest job with this `plan_digest`, unless there is none or it is Completed."""
        found = self.store.find(JobSummary, order="created desc", limit=1, plan_digest=identity)
        return found[0].name if found and found[0].status != "Completed" else None

    def _find_abandoned(
        self, identity: str, name: str | None, display_name: str, about: Mapping[str, Any] | None
    ) -> str | None:
        """Return the latest job that says the same, has begun and has no runner; its steps may live."""
        live = ("Running", "Finalizing")
        for row in self.store.find(JobRow, order="created desc", plan_digest=identity, status=live):
            is_same = name in (None, row.name) and (row.display_name, row.about) == (display_name, about)
            if is_same and not self.is_running(row.name):
                return row.name
        return None

    def start(self, name: str) -> bool:
        """Start a runner on an unfinished job, or on a failed or canceled one again: what is done stays done.

        Returns False when a runner has it already, or there is nothing left to do.
        """
        lock = self._take(name)
        if lock is None:
            return False
        try:
            with self.store.transaction():
                if self.row(name).status == "Completed":
                    return False
                cleared = dict.fromkeys(("rc", "error", "ended", "run"))
                ended = {"job": name, "status": ("Failed", "Canceled")}
                self.store.update(StepRow, ended, status="NotStarted", **cleared)
                self.store.update(JobRow, {"name": name}, status="Queued", cancel=0, ended=None, error=None)
            self._spawn(name, lock)
        finally:
            os.close(lock)
        return True

    def follow(self, name: str, *, revive: bool = False, logs: bool = False, poll_s: float = POLL_S) -> Iterator[Event]:
        """Yield what happened and happens in a job until it ends; with `revive`, start a new runner when one dies.

        With `logs`, the lines that its steps print are events, too.

        When it returns from a canceled job, nothing of that runs any more, its runner included.
        Raises JobError when the runner is gone and the job has not ended.
        """
        self.row(name)
        follower = Follower(self.store, self.folder / name, name, logs=logs)
        revivals = 0
        while True:
            try:
                for event in follower.follow(poll_s):
                    if event.data.get("status") not in ("Queued", "Running", "started"):
                        revivals = 0
                    yield event
                break
            except JobError:
                revivals += 1
                if not revive or revivals > MOST_REVIVALS:
                    raise
                self._replace_runner(name)
        deadline = time.monotonic() + GOODBYE_S
        while self.row(name).status == "Canceled" and self.is_running(name) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._reap()

    def cancel(self, name: str) -> None:
        """Ask a job to stop; return at once. Raises JobError when it has ended already."""
        row = self.row(name)
        if row.status in ENDED:
            raise JobError(f"the job is {row.status} already", where=name)
        wanted = {"name": name, "status": ("NotStarted", "Queued", "Running", "Finalizing")}
        self.store.update(JobRow, wanted, cancel=1, status="CancelRequested")
        self._replace_runner(name)  # without one, steps may live all the same: a new one carries the cancel out

    def is_running(self, name: str) -> bool:
        """Tell whether a runner has the job."""
        return shim.held(self.folder / name / RUNNER_LOCK)

    def _replace_runner(self, name: str) -> None:
        """Start a runner on a job that has lost its own, to go on with whatever that was doing, a cancel included."""
        lock = shim.take(self._made(name) / RUNNER_LOCK)
        if lock is not None:
            try:
                self._spawn(name, lock)
            finally:
                os.close(lock)

    def _take(self, name: str) -> int | None:
        """Lock a job for its runner; None when one has it, and is not about to end."""
        path = self._made(name) / RUNNER_LOCK
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            lock = shim.take(path)
            row = self.row(name)
            if lock is not None or not (row.cancel or row.ended) or time.monotonic() > deadline:
                return lock
            time.sleep(0.02)

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, folder) from None
        return folder

    def _spawn(self, name: str, lock: int) -> None:
        """Start the runner in a session of its own, and hand it the lock: at no moment does the job look unattended."""
        self._reap()
        log = os.open(self.folder / name / "runner.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.set_inheritable(lock, True)
        # -P: a file of the user's working folder must not stand in for one of Python's modules
        argv = [sys.executable, "-P", "-m", "penala.workspace.runner", str(self.workspace.folder), name, str(lock)]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        try:
            self._runners.add(os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsid=True))
        finally:
            os.close(log)

    def _reap(self) -> None:
        """Bury the runners that this process started and that have ended."""
        for pid in list(self._runners):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._runners.discard(pid)

    # -- reading --

    def list(self, limit: int = -1) -> Sequence[JobSummary]:
        """Return all jobs, newest first."""
        names = ", ".join(field.name for field in fields(JobSummary))
        rows = self.store.sql(f"select {names} from jobs order by created desc, rowid desc limit ?", limit)
        return [JobSummary(*row) for row in rows]  # half the time of `find`, with 10,000 jobs

    def row(self, name: str) -> JobRow:
        """Return a job's row; raise NotFound for a name that no job has."""
        row = self.store.get(JobRow, name=name)
        if row is None:
            known = [job.name for job in self.list(1000)]
            fix = near(name, known) or "`penala jobs list` shows all"
            raise NotFound(f"there is no job '{name}'", fix=fix)
        return row

    def steps(self, name: str) -> Sequence[StepRow]:
        """Return a job's steps in their order."""
        return self.store.find(StepRow, order="position", job=name)

    def show(self, name: str) -> dict[str, Any]:
        """Return a job as `penala jobs show --json` prints it."""
        row = self.row(name)
        plan = Plan.from_json(row.spec["plan"])
        return {
            "name": row.name,
            "display_name": row.display_name,
            "type": row.kind,
            "status": row.status,
            "created": row.created,
            "started": row.started,
            "ended": row.ended,
            "error": row.error,
            **{key: value for key, value in (row.about or {}).items() if key != "document"},
            "outputs": {
                output: {"type": plan.output_type(output), "path": str(path) if path else None}
                for output, path in self.outputs(name).items()
            },
            "jobs": [] if row.kind == "command" else self._children(name, plan),
        }

    def _children(self, name: str, plan: Plan) -> Sequence[dict[str, Any]]:
        titles = {step.name: step.display_name for step in plan.steps}
        return [
            {
                "name": step.name,
                "display_name": titles[step.name],
                "status": step.status,
                "reused": step.reused_from is not None,
                "reused_from": step.reused_from,
                "attempt": step.attempt,
                "started": step.started,
                "ended": step.ended,
                "error": step.error,
            }
            for step in self.steps(name)
        ]

    def titles(self, name: str) -> dict[str, str]:
        """Return what each step of a job is called for a person: its name, where others are called the same."""
        titles = {step.name: step.display_name for step in Plan.from_json(self.row(name).spec["plan"]).steps}
        shared = Counter(titles.values())
        return {name: title if shared[title] == 1 else name for name, title in titles.items()}

    def outputs(self, name: str) -> dict[str, Path | None]:
        """Return where each output of the pipeline lies, None while its step is not done."""
        plan = Plan.from_json(self.row(name).spec["plan"])
        done = {step.name: step.outputs or {} for step in self.steps(name) if step.status == "Completed"}
        return {
            output: self.workspace.artifacts / done[bound.step][bound.output] if bound.step in done else None
            for output, bound in plan.outputs.items()
        }

    def download(self, name: str, output: str | None, to: Path) -> Sequence[Path]:
        """Copy one output to TO/named-outputs/OUTPUT; or all that were written, with TO/artifacts/: see `artifacts`.

        Raises JobError while the job has not ended, and for the one output when it was not written.
        """
        row = self.row(name)
        if row.status not in ENDED:
            raise JobError(f"the job is {row.status}", where=name, fix="wait until it has ended")
        outputs = self.outputs(name)
        if output is not None and output not in outputs:
            fix = near(output, outputs) or f"use {', '.join(outputs)}"
            raise NotFound(f"the job has no output '{output}'", where=name, fix=fix)
        if output is not None and outputs[output] is None:
            raise JobError(f"the output '{output}' was not written", where=name)
        wanted = {f"named-outputs/{one}": path for one, path in outputs.items() if path and output in (None, one)}
        if output is None:
            wanted |= {f"artifacts/{inner}": path for inner, path in self.artifacts(name).items()}
        for place, source in wanted.items():
            _copy(source, to / place)
        return [to / place for place in wanted]

    def step_outputs(self, name: str, step: str) -> dict[str, Path | None]:
        """Return where each output of a step lies, None while it is not done; raise NotFound for another name."""
        plan, done = Plan.from_json(self.row(name).spec["plan"]), self._step(name, step).outputs or {}
        declared = next(one.outputs for one in plan.steps if one.name == step)
        return {output: self.workspace.artifacts / done[output] if output in done else None for output in declared}

    def _step(self, name: str, step: str) -> StepRow:
        rows = {row.name: row for row in self.steps(self.row(name).name)}
        if step not in rows:
            raise NotFound(f"the job has no step '{step}'", where=name, fix=near(step, rows) or ", ".join(rows))
        return rows[step]

    def artifacts(self, name: str, step: str | None = None) -> dict[str, Path]:
        """Return what a job's steps left beside their outputs: `outputs`, `logs` and `user_logs/std_log.txt`, and
        the files that they logged with MLflow.

        Those of a pipeline stand below the step's name, unless it is one step that is asked for; a reused step has
        what the one before it left.
        """
        from penala.workspace.steps import KEPT

        kind, found = self.row(name).kind, dict[str, Path]()
        for row in self.steps(name) if step is None else [self._step(name, step)]:
            prefix = "" if kind == "command" or step is not None else f"{row.name}/"
            logs = sorted(self._step_folder(row).glob("attempt-*/log.txt"), key=_attempt_number)
            if not logs:
                continue
            found[f"{prefix}user_logs/std_log.txt"] = logs[-1]
            for kept in KEPT:
                digest = (row.outputs or {}).get(kept)
                place = self.workspace.artifacts / digest if digest else logs[-1].parent / "work" / kept
                if place.is_dir() and any(place.iterdir()):
                    found[f"{prefix}{kept[2:]}"] = place
            logged = self.workspace.folder / "mlartifacts" / str(self._worker(row).run) / "artifacts"
            for one in sorted(logged.iterdir()) if logged.is_dir() else ():
                found.setdefault(f"{prefix}{one.name}", one)
        return found

    def _worker(self, row: StepRow) -> StepRow:
        """Return the step itself, or the one that it was reused from."""
        job, _, step = (row.reused_from or "").partition("/")
        return self.store.get(StepRow, job=job, name=step) or row

    def _step_folder(self, row: StepRow) -> Path:
        """Return the folder of a step, or of the one that it was reused from."""
        return self.folder / (row.reused_from or f"{row.job}/{row.name}")

    def logs(self, name: str, step: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield (step, text) of the logs of all attempts, in the order of the steps; or of one step."""
        for row in self.steps(self.row(name).name) if step is None else [self._step(name, step)]:
            for log in sorted(self._step_folder(row).glob("attempt-*/log.txt"), key=_attempt_number):
                yield row.name, log.read_text(encoding="utf-8", errors="replace")

    def result(self, name: str) -> dict[str, Any]:
        """Return the result of a run: what ended how, with the figures of its steps; what did not run is None."""
        row = self.row(name)
        done = row.result or {}
        components = {step["name"]: step["component"] for step in row.spec["plan"]["steps"]}
        figures = {components[step.name]: step.figures or {} for step in self.steps(name) if step.status == "Completed"}
        model, endpoint = done.get("register"), done.get("deploy")
        return {
            "event": "result",
            "status": row.status,
            "job": name,
            "error": _error_text(row.error),
            "model": model and {key: model[key] for key in ("name", "version")},
            "endpoint": endpoint and {key: endpoint[key] for key in ("name", "scoring_uri", "openai_base_url")},
            "ledger": figures.get("chat_completion_datapreprocess", {}).get("ledger"),
            "training": figures.get("chat_completion_finetune"),
            "evaluation": figures.get("chat_completion_evaluation"),
            "reply": done.get("score", {}).get("reply"),
        }


def _new_name(display_name: str) -> str:
    import secrets  # a list of jobs need not wait for it

    stem = re.sub(r"[^a-z0-9]+", "-", display_name.lower()).strip("-")[:40] or "job"
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _error_text(error: dict[str, Any] | None) -> str | None:
    return None if error is None else str(PenalaError(error["what"], where=error["where"], fix=error["fix"]))


def _attempt_number(log: Path) -> int:
    return int(log.parent.name.removeprefix("attempt-"))


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        raise UsageError("exists already", where=str(target), fix="name another folder with --to")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # a part, left by a full disk, would pass for the whole
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
            copy = Path(work) / target.name
            if source.is_dir():
                shutil.copytree(source, copy)
            else:
                shutil.copy2(source, copy)
            loosen(copy)
            copy.rename(target)
    except OSError as error:
        raise JobError(f"cannot be written: {error.strerror or error}", where=str(target)) from None
