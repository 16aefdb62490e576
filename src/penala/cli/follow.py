"""A job as it runs: a live line in a terminal, plain lines in a pipe, JSON for machines."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penala.cli.output import harmless, put_json, say

if TYPE_CHECKING:
    from penala.workspace.client import Workspace
    from penala.workspace.events import Event

_COLOUR = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
SECONDS_BETWEEN_LINES = 10.0
STAGES = {
    "register": "Register the model version",
    "assets": "Register the outputs",
    "deploy": "Deploy",
    "score": "Score the sample",
    "mlflow": "Mirror to MLflow",
}


class Display:
    """Show events as plain lines on stderr; the other displays change how."""

    def __init__(self, titles: dict[str, str]) -> None:
        self._titles = titles | STAGES
        self._last_line_at: dict[str, float] = {}  # by title
        self._last_progress: dict[str, str] = {}
        self._running: set[str] = set()

    @staticmethod
    def choose(titles: dict[str, str], *, as_json: bool) -> "Display":
        """Return the display that fits who is reading."""
        if as_json:
            return JsonDisplay(titles)
        return LiveDisplay(titles) if sys.stderr.isatty() else Display(titles)

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, event: "Event") -> None:
        """Show one event."""
        if event.kind in ("step", "stage"):
            self._turn(event.name, event.data)
        elif event.kind == "progress":
            self.progress(self._title(event.name), event.data)
        elif event.kind == "note":
            self.line(f"    {self._told(self._title(event.name))}{event.data['text']}")
        elif event.kind == "log":
            self.line(_as_seen(event.data["text"]))

    def progress(self, title: str, data: Any) -> None:
        """Show how far a step is: not too often, but always its end, and nothing twice."""
        now, text = time.monotonic(), progress_text(data)
        since = now - self._last_line_at.get(title, float("-inf"))
        if data["done"] == data["total"] or since >= SECONDS_BETWEEN_LINES:
            self._last_line_at[title] = now
            if text != self._last_progress.get(title):
                self.line(f"    {self._told(title)}{text}")
            self._last_progress[title] = text

    def line(self, text: str) -> None:
        """Print a line that stays."""
        say(text)

    def clear(self) -> None:
        """Remove what does not stay."""

    def _title(self, name: str) -> str:
        return self._titles.get(name, name)

    def _told(self, title: str) -> str:
        """Return what a line starts with, so that it can be told whose it is while several steps run."""
        return f"{title}: " if len(self._running) > 1 else ""

    def _turn(self, name: str, data: Any) -> None:
        status, title = data["status"], self._title(name)
        if status == "started":
            self._running.add(name)
            again = f", attempt {data['attempt']}" if data.get("attempt", 1) > 1 else ""
            self.line(f"{title} ...{again}")
        elif status == "reused":
            self.line(f"{title}: unchanged, reused")
        else:
            self.clear()
            self._running.discard(name)
            seconds = data.get("seconds")
            self.line(f"{title}: {status}" + (f" in {duration(seconds)}" if seconds is not None else ""))


class JsonDisplay(Display):
    """One JSON object a line, on stdout."""

    def show(self, event: "Event") -> None:
        put_json(event.as_dict())


class LiveDisplay(Display):
    """A line at the bottom of the terminal that moves, and lines above it that stay."""

    def __init__(self, titles: dict[str, str]) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(titles)
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, transient=True, refresh_per_second=8)

    def __enter__(self) -> "Display":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, title: str, data: Any) -> None:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=data["total"], completed=data["done"], width=24)
        self._live.update(Columns([Text(f"    {title}"), bar, Text(progress_text(data))]))

    def line(self, text: str) -> None:
        self._console.print(harmless(text), soft_wrap=True)

    def clear(self) -> None:
        from rich.text import Text

        self._live.update(Text())


def progress_text(data: Any) -> str:
    """Return a progress report as a person reads it: `120/204 steps, loss 1.234, 310 tokens/s, 1 min 20 s left`."""
    parts = [f"{data['done']}/{data['total']} {data.get('unit', '')}".rstrip()]
    if data.get("loss") is not None:
        parts.append(f"loss {data['loss']:.3f}")
    if data.get("tokens_per_s") is not None:
        parts.append(f"{data['tokens_per_s']:.0f} tokens/s")
    if data.get("eta_s") is not None and data["done"] < data["total"]:
        parts.append(f"{duration(data['eta_s'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as `0.4 s`, `42 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _as_seen(line: str) -> str:
    """Return a printed line as a terminal leaves it: without colours, and what stands behind its last return."""
    return _COLOUR.sub("", line).rstrip("\r").rpartition("\r")[2]


def follow(workspace: "Workspace", job: str, display: Display, *, cancel: bool = True, logs: bool = False) -> None:
    """Show a job until it ends, with `logs` also what its steps print.

    Ctrl-C asks it to stop and waits for that; without `cancel` it only stops watching.
    """
    try:
        for event in workspace.jobs.follow(job, revive=True, logs=logs):
            display.show(event)
    except KeyboardInterrupt:
        display.clear()
        if not cancel:
            say(f"{job} goes on; `penala jobs stream {job}` follows it again, `penala jobs cancel {job}` ends it")
            sys.exit(1)
        say("stopping; what is done stays done")
        workspace.jobs.cancel(job)
        for _ in workspace.jobs.follow(job, revive=True):
            pass


@contextmanager
def fetching(title: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that shows, on stderr, the notes and the progress of something that is fetched."""
    with Display.choose({}, as_json=False) as display:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                display.progress(title, event)
            else:
                display.line(event["text"])

        yield report
