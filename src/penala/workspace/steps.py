"""One step of a job on the disk: how an attempt is started, and what is kept of what it leaves.

jobs/JOB/STEP/outputs/OUTPUT   while it runs
jobs/JOB/STEP/events.jsonl     progress, of all attempts
jobs/JOB/STEP/attempt-N/       the shim's folder, the command's working folder
artifacts/DIGEST               an output, once its step is done
"""

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
from penala.workspace.artifacts import Digests, digest, digest_of, environment_id, file_names, sync_files
from penala.workspace.commands import render
from penala.workspace.events import EventFile
from penala.workspace.plan import File, Literal, Step, Value

if TYPE_CHECKING:
    import subprocess

LOG_LINES = 20  # of a failed step, kept with its error
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

    def output(self, name: str) -> Path:
        """Return where the running step writes one of its outputs."""
        return self.folder / "outputs" / name

    def artifact(self, digest: str) -> Path:
        """Return where an output lies once its step is done."""
        return self.workspace / "artifacts" / digest

    def key(self) -> str:
        """Return the digest of all that goes into the step's outputs."""
        step = self.step
        inputs = {name: self._identity(value) for name, value in step.inputs.items()}
        return digest(
            [
                "step/1",
                step.component,
                step.version,
                step.code,
                step.command,
                sorted(inputs.items()),
                sorted(step.outputs.items()),
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

    def check_files(self, digests: Digests) -> None:
        """Raise JobError when an input file is no longer what it was when the job was made."""
        for value in self.step.inputs.values():
            if isinstance(value, File):
                try:
                    same = digests(Path(value.path)) == value.digest
                except OSError as error:
                    raise JobError(f"cannot be read any more: {error.strerror}", where=value.path) from None
                if not same:
                    fix = "run the same command again: it makes a new job"
                    raise JobError("has changed since the job was made", where=value.path, fix=fix)

    def start(self, number: int) -> "subprocess.Popen[bytes]":
        """Start attempt `number`; its row must say so already. The attempts before must be dead: see `bury`."""
        attempt = self.attempt(number)
        attempt.mkdir(parents=True, exist_ok=True)
        self._prepare_outputs()
        command = render(self.step.command, self._values())
        description = {
            "argv": command.argv,
            "env": {**self._environment(number), **command.env},
            "cwd": str(attempt),
            "grace_s": shim.DEFAULT_GRACE_S,
            "events_from": _end_of_lines(self.events),
        }
        shim.write_json(attempt / "cmd.json", description)
        return shim.launch(attempt)

    def bury(self, number: int) -> None:
        """Kill what is left of a dead attempt, so that two attempts never live at once."""
        try:
            shim.kill_leftovers(self.attempt(number))
        except TimeoutError as error:
            raise JobError(f"an earlier attempt does not die: {error}", where=self.step.name) from None

    def _prepare_outputs(self) -> None:
        if not self.step.resumable and (self.folder / "outputs").exists():
            shutil.rmtree(self.folder / "outputs")
        for name, kind in self.step.outputs.items():
            place = self.output(name)
            (place.parent if kind == "uri_file" else place).mkdir(parents=True, exist_ok=True)

    def _values(self) -> dict[str, str]:
        values = {f"outputs.{name}": str(self.output(name)) for name in self.step.outputs}
        for name, value in self.step.inputs.items():
            if isinstance(value, Literal):
                values[f"inputs.{name}"] = value.text
            elif isinstance(value, File):
                values[f"inputs.{name}"] = value.path
            else:
                values[f"inputs.{name}"] = str(self.artifact(self.upstream[value.step][value.output]))
        return values

    def _environment(self, number: int) -> dict[str, str]:
        return {
            **_ALLOCATOR,
            "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",  # a killed step's last words are in its log
            "PENALA_WORKSPACE": str(self.workspace),
            "PENALA_CACHE": str(self.workspace / "cache"),
            "PENALA_JOB": self.job,
            "PENALA_STEP": self.step.name,
            "PENALA_ATTEMPT": str(number),
            "PENALA_EVENTS": str(self.events),
            "AZUREML_RUN_ID": f"{self.job}-{self.step.name}",
        }

    def digest_outputs(self) -> dict[str, str]:
        """Return the digest of each output, all of it on the disk; raise JobError for one that is missing."""
        found = {}
        for name, kind in self.step.outputs.items():
            place = self.output(name)
            if not (place.is_file() if kind == "uri_file" else place.is_dir()):
                raise JobError(f"ended without writing its output {name}", where=self.step.name)
            sync_files([place] if kind == "uri_file" else [place / name for name in file_names(place)])
            found[name] = digest_of(place)
        return found

    def keep_outputs(self, digests: Mapping[str, str]) -> bool:
        """Move the outputs to their artifacts, or go on where a move was interrupted; tell whether all are there."""
        for name, found in digests.items():
            source, target = self.output(name), self.artifact(found)
            if source.exists() and not target.exists():
                _move(source, target)
            if not target.exists():
                return False
        shutil.rmtree(self.folder / "outputs", ignore_errors=True)
        shim.sync_folder(self.workspace / "artifacts")
        return True

    def figures(self) -> dict[str, Any] | None:
        """Return the last figures that the step reported."""
        found = [event["figures"] for event in EventFile(self.events).read() if event["event"] == "figures"]
        return found[-1] if found else None

    def failure(self, number: int, code: int) -> dict[str, Any]:
        """Return why an attempt failed: its own last error event, else its last words."""
        log = self.attempt(number) / "log.txt"
        description = json.loads((self.attempt(number) / "cmd.json").read_text(encoding="utf-8"))
        lines = _last_lines(log)
        error: dict[str, Any] = {"what": "", "where": None, "fix": None, "exit_code": 1}
        for event in EventFile(self.events, description["events_from"]).read():
            if event["event"] == "error":
                error |= {key: event.get(key) for key in error}
        if not error["what"]:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
            error |= {"what": f"{_ended(code)}: {last}", "where": f"step {self.step.name}", "fix": f"see {log}"}
        return {**error, "step": self.step.name, "log": str(log), "lines": lines}


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError:
        if not target.exists():  # otherwise another job was faster with the same content
            raise


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"


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
