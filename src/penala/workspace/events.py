"""What happens in a job, as a stream: from the store (steps begin and end) and the steps' event files (progress)."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from penala.errors import JobError
from penala.workspace import shim
from penala.workspace.store import StepRow, Store

Kind = Literal["job", "step", "stage", "progress", "metric", "note", "error", "figures", "log"]
STEP_KINDS = frozenset(get_args(Kind)) - {"job", "step", "stage", "log"}  # what a step writes itself
ENDED = ("Completed", "Failed", "Canceled")
STAGES = ("register", "assets", "deploy", "score", "mlflow")
# without which an event of a kind is none, and what else is read of it; any command may write to its step's file
_NUMBER, _TEXT = (int, float), (str,)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "progress": {"done": _NUMBER, "total": _NUMBER},
    "metric": {"name": _TEXT, "value": _NUMBER},
    "note": {"text": _TEXT},
    "error": {"what": _TEXT},
    "figures": {"figures": (dict,)},
}
_OPTIONAL = {**dict.fromkeys(("loss", "tokens_per_s", "eta_s"), _NUMBER), **dict.fromkeys(("where", "fix"), _TEXT)}
RUNNER_LOCK = "runner.lock"  # in a job's folder, held while its runner lives


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `name` is that of the job, of the step, or of the stage after the steps.

    job: status, error                    step: status (started, reused, completed, failed, canceled), attempt, seconds,
    stage: status (started, completed),         figures, error, reused_from
           and its result                 log: text, a line that the step's command printed
                                          the others: as the step wrote them
    """

    kind: Kind
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the event as one JSON object; the optimizer step of a metric is `at_step`, for `step` is the job's."""
        data = {"at_step" if key == "step" else key: value for key, value in self.data.items()}
        subject = self.kind if self.kind in ("job", "stage") else "step"
        return {"event": self.kind, subject: self.name, **data}


class EventFile:
    """A file with one JSON object a line that other processes append to."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset  # bytes read so far

    def read(self) -> list[dict[str, Any]]:
        """Return the events that were added since the last read; a line without its end stays for the next one."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self.offset += end
        return [event for line in data[:end].splitlines() if (event := _event(line)) is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    """Return one event, or None for a line that a killed writer left in pieces, or that has not what its kind has."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(kind := value.get("event"), str):
        return None
    is_whole = all(isinstance(value.get(name), types) for name, types in _FIELDS.get(kind, {}).items())
    fits = all(value.get(name) is None or isinstance(value[name], types) for name, types in _OPTIONAL.items())
    return value if is_whole and fits else None


class Follower:
    """Everything that happened and happens in one job, in order, each event once; with `logs`, what is printed, too."""

    def __init__(self, store: Store, folder: Path, job: str, *, logs: bool = False) -> None:
        self.store = store
        self.folder = folder  # of the job
        self.job = job
        self.lock = folder / RUNNER_LOCK
        self.logs = logs
        self._logged: dict[Path, int] = {}  # log -> bytes told so far
        self._status = ""
        self._begun: dict[str, int] = {}  # step -> attempt whose start was told
        self._ended: set[str] = set()
        self._files: dict[str, EventFile] = {}
        self._doing: str | None = None
        self._stages: set[str] = set()
        self._notes = EventFile(folder / "tail.jsonl")

    def follow(self, poll_s: float) -> Iterator[Event]:
        """Yield events until the job has ended; raise JobError when its runner is gone before."""
        while True:
            running = shim.held(self.lock)  # asked first: what it wrote before its death is read below
            status, error, result = self._job_row()
            for row in self.store.find(StepRow, order="position", job=self.job):
                yield from self._step(row)
            yield from self._tail(result)
            if status != self._status:
                self._status = status
                yield Event("job", self.job, {"status": status, "error": error})
            if status in ENDED:
                return
            if not running:
                raise self._abandoned()
            time.sleep(poll_s)

    def _abandoned(self) -> JobError:
        """Return the error of a job whose runner is gone, with the runner's last words if they say why."""
        log = self.folder / "runner.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        why = f" ({lines[-1].removeprefix('error: ')})" if lines and lines[-1].startswith("error: ") else ""
        return JobError(f"the runner of {self.job} is gone{why}", where=str(log), fix="run the same command again")

    def _job_row(self) -> tuple[str, Any, dict[str, Any]]:
        row = self.store.sql("select status, error, result from jobs where name = ?", self.job)[0]
        return row["status"], json.loads(row["error"] or "null"), json.loads(row["result"] or "{}")

    def _step(self, row: StepRow) -> Iterator[Event]:
        """Yield what is new in a step: its start, what it wrote, its end."""
        if row.status == "NotStarted" or row.name in self._ended:
            return
        if row.reused_from is not None:
            self._ended.add(row.name)
            yield Event("step", row.name, {"status": "reused", "reused_from": row.reused_from, "figures": row.figures})
            return
        if row.attempt and self._begun.get(row.name) != row.attempt:
            self._begun[row.name] = row.attempt
            yield Event("step", row.name, {"status": "started", "attempt": row.attempt})
        yield from self._written(row)
        if self.logs and row.attempt:
            yield from self._printed(row)
        if row.status in ENDED:
            self._ended.add(row.name)
            seconds = None if row.started is None or row.ended is None else round(row.ended - row.started, 3)
            data = {"status": row.status.lower(), "seconds": seconds, "figures": row.figures, "error": row.error}
            yield Event("step", row.name, data)

    def _written(self, row: StepRow) -> Iterator[Event]:
        """Yield what the step itself wrote; of the progress that went by before, only the last."""
        first = row.name not in self._files
        file = self._files.setdefault(row.name, EventFile(self.folder / row.name / "events.jsonl"))
        events = [event for event in file.read() if event["event"] in STEP_KINDS]
        last = max((n for n, event in enumerate(events) if event["event"] == "progress"), default=-1)
        for number, event in enumerate(events):
            if not first or event["event"] != "progress" or number == last:
                yield Event(event.pop("event"), row.name, event)

    def _printed(self, row: StepRow) -> Iterator[Event]:
        """Yield the lines that the step's command has printed; one without its end waits for it while the step runs."""
        log = self.folder / row.name / f"attempt-{row.attempt}" / "log.txt"
        try:
            with open(log, "rb") as file:
                file.seek(self._logged.get(log, 0))
                data = file.read()
        except FileNotFoundError:
            return
        end = len(data) if row.status in ENDED else data.rfind(b"\n") + 1
        self._logged[log] = self._logged.get(log, 0) + end
        for line in data[:end].decode(errors="replace").removesuffix("\n").split("\n") if end else ():
            yield Event("log", row.name, {"text": line})

    def _tail(self, result: Mapping[str, Any]) -> Iterator[Event]:
        """Yield which action after the steps has begun and which is done."""
        notes = [Event(note.pop("event"), note.pop("stage"), note) for note in self._notes.read()]
        for stage in STAGES:
            if stage in result and stage not in self._stages:
                self._stages.add(stage)
                yield from (note for note in notes if note.name == stage)
                notes = [note for note in notes if note.name != stage]
                yield Event("stage", stage, {"status": "completed", **result[stage]})
        doing = result.get("doing")
        if doing is not None and doing != self._doing and doing not in self._stages:
            yield Event("stage", doing, {"status": "started"})
        self._doing = doing
        yield from notes
