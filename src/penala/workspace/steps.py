"""One step of a job on the disk: how an attempt is started, and what is kept of what it leaves.

jobs/JOB/STEP/outputs/OUTPUT   while it runs
jobs/JOB/STEP/events.jsonl     progress, of all attempts
jobs/JOB/STEP/attempt-N/       the shim's folder, with the log
jobs/JOB/STEP/attempt-N/python/ the Python of a command that installs packages, while it runs
jobs/JOB/STEP/attempt-N/work/  the command's working folder: a copy of the code, with ./outputs and ./logs
artifacts/DIGEST               an output, ./outputs or ./logs, once its step is done
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import JobError
from penala.workspace import shim
from penala.workspace.artifacts import (
    Digests,
    digest,
    digest_of,
    environment_id,
    file_names,
    loosen,
    move,
    remove,
    sync_files,
)
from penala.workspace.commands import fill, render
from penala.workspace.events import EventFile
from penala.workspace.overlay import INSTALLS, make_overlay
from penala.workspace.plan import ARTIFACTS, File, Literal, Step, Value

if TYPE_CHECKING:
    import subprocess

KEPT = ("./outputs", "./logs")  # of the working folder: outputs that every command has
GRACE_S = 0.8  # between SIGTERM and SIGKILL: a cancel ends everything in 2 s
LOG_LINES = 20  # of a failed step, kept with its error
_RANKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ranks.py")
# glibc gives pages back after every large free by default: in training that cost a third of the time
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class StepFolder:
    """The files of one step of one job; `upstream` maps each step that is done to its outputs' digests."""

    def __init__(self, workspace: Path, job: str, step: Step, upstream: Mapping[str, Mapping[str, str]]) -> None:
        self.workspace = workspace
        self.job = job
        self.step = step
        self.upstream = upstream
        self.folder = workspace / "jobs" / job / step.name
        self.events = self.folder / "events.jsonl"

    def attempt(self, number: int) -> Path:
        """Return the shim's folder of an attempt."""
        return self.folder / f"attempt-{number}"

    def work(self, number: int) -> Path:
        """Return the command's working folder in an attempt."""
        return self.attempt(number) / "work"

    def _python(self, number: int) -> Path:
        """Return where the Python of an attempt lies whose command installs packages."""
        return self.attempt(number) / "python"

    def output(self, name: str, number: int) -> Path:
        """Return where the running step writes one of its outputs; those of KEPT lie in its attempt."""
        return self.work(number) / name if name in KEPT else self.folder / "outputs" / name

    def artifact(self, digest: str) -> Path:
        """Return where an output lies once its step is done."""
        return self.workspace / "artifacts" / digest

    def key(self) -> str:
        """Return the digest of all that goes into the step's outputs."""
        step = self.step
        inputs = {name: self._identity(value) for name, value in step.inputs.items()}
        return digest(
            [
                "step/2",
                step.component,
                step.version,
                step.code,
                step.source,
                step.command,
                sorted(inputs.items()),
                sorted(step.outputs.items()),
                sorted(step.variables.items()),
                [step.processes, step.nodes],
                step.environment,
                environment_id(),
            ]
        )

    def _identity(self, value: Value) -> list[str]:
        if isinstance(value, Literal):
            return ["literal", value.text]
        if isinstance(value, File):  # the suffix may say how the bytes are read
            return ["file", value.digest, Path(value.path).suffix]
        return ["output", self.upstream[value.step][value.output]]

    def check_files(self, digests: Digests, *, after: bool = False) -> None:
        """Raise JobError when an input file is not what it was when the job was made, also `after` the command."""
        for value in self.step.inputs.values():
            if isinstance(value, File):
                try:
                    same = digests(Path(value.path)) == value.digest
                except OSError as error:
                    raise JobError(f"cannot be read any more: {error.strerror}", where=value.path) from None
                if not same:
                    what, fix = "has changed since the job was made", "run the same command again: it makes a new job"
                    if after:
                        what = "has changed since the step started"
                        fix = f"if the command writes there, let it work in a copy; else {fix}"
                    raise JobError(what, where=value.path, fix=fix)

    def start(self, number: int, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start attempt `number`, which finds `variables` in its environment; its row must say so already.

        The attempts before must be dead: see `bury`.
        """
        self._prepare_work(number)
        self._prepare_outputs(number)
        values = self._values(number)
        python = sys.executable
        if INSTALLS.search(self.step.command):
            python = str(make_overlay(self._python(number)))
        command = render(self.step.command, values, python)
        ranks = [self.step.processes, self.step.nodes]
        launcher = [sys.executable, "-I", "-S", _RANKS, *map(str, ranks)] if self.step.processes else []
        description = {
            "argv": launcher + command.argv,
            "env": {**variables, **self._environment(values, number, os.path.dirname(python)), **command.env},
            "cwd": str(self.work(number)),
            "grace_s": GRACE_S,
            "timeout_s": self.step.timeout_s,
            "events_from": _end_of_lines(self.events),
            "oom_kills": _oom_kills(),
        }
        shim.write_json(self.attempt(number) / "cmd.json", description)
        return shim.launch(self.attempt(number))

    def bury(self, number: int) -> None:
        """Kill what is left of a dead attempt, so that two attempts never live at once."""
        try:
            shim.kill_leftovers(self.attempt(number))
        except TimeoutError as error:
            raise JobError(f"an earlier attempt does not die: {error}", where=self.step.name) from None

    def _prepare_work(self, number: int) -> None:
        """Make the working folder: what the component's code was when the job was made, in files of its own."""
        work = self.work(number)
        if work.exists():  # of a runner that died right here
            remove(work)
        if self.step.source is None:
            work.mkdir(parents=True)
        else:
            snapshot = self.artifact(self.step.source)
            if not snapshot.is_dir():
                fix = "run the same command again: it makes a new job"
                raise JobError("its code is no longer in the workspace", where=str(snapshot), fix=fix)
            shutil.copytree(snapshot, work, copy_function=_copy_writable)
        for name in KEPT:
            (work / name).mkdir(exist_ok=True)

    def _prepare_outputs(self, number: int) -> None:
        if not self.step.resumable and (self.folder / "outputs").exists():
            remove(self.folder / "outputs")
        for name, kind in self.step.outputs.items():
            place = self.output(name, number)
            (place.parent if kind == "uri_file" else place).mkdir(parents=True, exist_ok=True)

    def _values(self, number: int) -> dict[str, str]:
        values = {f"outputs.{name}": str(self.output(name, number)) for name in self.step.outputs}
        for name, value in self.step.inputs.items():
            if isinstance(value, Literal):
                values[f"inputs.{name}"] = value.text
            elif isinstance(value, File):
                values[f"inputs.{name}"] = value.path
            else:
                values[f"inputs.{name}"] = str(self.artifact(self.upstream[value.step][value.output]))
        return values

    def _environment(self, values: Mapping[str, str], number: int, programs: str) -> dict[str, str]:
        given, here = self.step.variables, os.path.dirname(sys.executable)
        path = given.get("PATH") or os.environ.get("PATH", os.defpath)
        return {
            **_ALLOCATOR,
            "PYTHONUNBUFFERED": "1",  # a killed step's last words are in its log
            **{name: fill(text, values) for name, text in given.items()},
            "PATH": os.pathsep.join(dict.fromkeys([programs, here, path])),
            **({"VIRTUAL_ENV": os.path.dirname(programs)} if programs != here else {}),
            "PENALA_WORKSPACE": str(self.workspace),
            "PENALA_CACHE": str(self.workspace / "cache"),
            "PENALA_JOB": self.job,
            "PENALA_STEP": self.step.name,
            "PENALA_ATTEMPT": str(number),
            "PENALA_EVENTS": str(self.events),
        }

    def digest_outputs(self, number: int) -> dict[str, str]:
        """Return the digest of each output, all of it on the disk; raise JobError for one that cannot be kept."""
        found = {}
        for name, kind in {**dict.fromkeys(KEPT, ""), **self.step.outputs}.items():
            place = self.output(name, number)
            if self.step.gathers and name == ARTIFACTS:
                self._gather(number)
            if name in KEPT and not (place.is_dir() and file_names(place)):
                continue
            if not (place.is_file() if kind == "uri_file" else place.is_dir()):
                raise JobError(f"ended without writing its output {name}", where=self.step.name)
            _settle(place)
            sync_files([place] if kind == "uri_file" else [place / name for name in file_names(place)])
            found[name] = digest_of(place)
        return found

    def _gather(self, number: int) -> None:
        """Copy what lies in the folders of KEPT into the output that has them all."""
        for name in KEPT:
            if (folder := self.work(number) / name).is_dir():
                shutil.copytree(folder, self.output(ARTIFACTS, number) / name, dirs_exist_ok=True)

    def keep_outputs(self, digests: Mapping[str, str], number: int) -> bool:
        """Move the outputs to their artifacts, or go on where a move was interrupted; tell whether all are there."""
        for name, found in digests.items():
            source, target = self.output(name, number), self.artifact(found)
            if source.exists() and not target.exists():
                move(source, target)
            if not target.exists():
                return False
        for folder in (self.folder / "outputs", self.work(number), self._python(number)):
            with contextlib.suppress(OSError):
                remove(folder)
        shim.sync_folder(self.workspace / "artifacts")
        return True

    def note(self, text: str) -> None:
        """Tell whoever follows the step something about it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _end_of_lines(self.events)
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": "note", "text": text}) + "\n")

    def figures(self) -> dict[str, Any] | None:
        """Return the last figures that the step reported."""
        found = [event["figures"] for event in EventFile(self.events).read() if event["event"] == "figures"]
        return found[-1] if found else None

    def was_killed(self, number: int, code: int) -> bool:
        """Tell whether a SIGKILL ended an attempt's command that did not come from the kernel for want of memory."""
        if code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return False
        return bool(self._description(number).get("oom_kills") == _oom_kills())

    def failure(self, number: int, end: Mapping[str, Any]) -> dict[str, Any]:
        """Return why an attempt failed: it took too long, its own last error event, else its last words."""
        log = self.attempt(number) / "log.txt"
        lines = _last_lines(log)
        error: dict[str, Any] = {"what": "", "where": None, "fix": None, "exit_code": 1}
        for event in EventFile(self.events, self._description(number)["events_from"]).read():
            if event["event"] == "error":
                error |= {key: event.get(key) for key in error}
        where, fix = f"step {self.step.name}", f"see {log}"
        if end.get("timed_out"):
            what = f"took longer than its limit of {self.step.timeout_s:g} s, and was ended"
            error |= {"what": what, "where": where, "fix": f"raise limits.timeout, or {fix}"}
        elif not error["what"]:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
            error |= {"what": f"{_ended(end['rc'])}: {last}", "where": where, "fix": fix}
        return {**error, "step": self.step.name, "log": str(log), "lines": lines}

    def _description(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.attempt(number) / "cmd.json").read_text(encoding="utf-8"))
        return found


def _copy_writable(source: str, target: str) -> None:
    shutil.copy2(source, target)
    os.chmod(target, os.stat(target).st_mode | 0o600)


def _settle(place: Path) -> None:
    """Put what symbolic links of an output lead to in their place, so that it can move; refuse what is no file."""
    loosen(place)
    for path in [place, *place.rglob("*")]:
        if path.is_symlink():
            target = path.resolve()
            if not target.exists() or path.is_relative_to(target):
                raise JobError(f"its output holds a link to {target}, which cannot be kept", where=str(path))
            path.unlink()
            (shutil.copytree if target.is_dir() else shutil.copy2)(target, path)
            loosen(path)
        elif not path.is_dir() and not path.is_file():
            raise JobError("its output holds something that is neither file nor folder", where=str(path))


def _oom_kills() -> int:
    """Return how many processes this machine has killed for want of memory."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    from penala.workspace.ranks import signal_name  # few steps end so

    return f"was killed by {signal_name(-code)}{' (out of memory?)' if -code == signal.SIGKILL else ''}"


def _end_of_lines(path: Path) -> int:
    """Return the size of an event file; a line that a killed writer left unfinished is ended first."""
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
                size += 1
    return size


def _last_lines(path: Path) -> list[str]:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
        return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
