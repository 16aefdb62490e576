"""What every entry module shares: arguments by the component's YAML, events, errors that end a step readably."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from penala.errors import PenalaError
from penala.inputs import component_inputs, component_spec

Report = Callable[[dict[str, Any]], None]
Body = Callable[[dict[str, Any], Report], dict[str, Any] | None]

SECONDS_BETWEEN_LINES = 5.0  # of progress in the log; the event file gets every report


class Reporter:
    """Write a stage's reports as events for the runner and as plain lines for the log."""

    def __init__(self, events: TextIO) -> None:
        self._events = events
        self._last_line_at = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        self._events.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._events.flush()
        if (line := self._line(event)) is not None:
            print(line, flush=True)

    def _line(self, event: dict[str, Any]) -> str | None:
        kind = event["event"]
        if kind == "note":
            return str(event["text"])
        if kind == "error":
            return f"error: {PenalaError(event['what'], where=event['where'], fix=event['fix'])}"
        if kind == "progress":
            now, finished = time.monotonic(), event["done"] == event["total"]
            if finished or now - self._last_line_at >= SECONDS_BETWEEN_LINES:
                self._last_line_at = now
                return " ".join(f"{key}={_short(value)}" for key, value in event.items() if key != "event")
        return None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(name: str, body: Body) -> None:
    """Parse the arguments of component `name`, run `body(arguments, report)` and record the figures it returns.

    Exits with the error's own code after a PenalaError, whose text is the last line of the log.
    """
    with open(os.environ.get("PENALA_EVENTS") or os.devnull, "a", encoding="utf-8") as events:
        _run(name, body, Reporter(events))


def _run(name: str, body: Body, report: Report) -> None:
    try:
        figures = body(parse(name, sys.argv[1:]), report)
        report({"event": "figures", "figures": figures or {}})
    except PenalaError as error:
        fields = {"what": error.what, "where": error.where, "fix": error.fix, "exit_code": error.exit_code}
        report({"event": "error", **fields})
        sys.exit(error.exit_code)
    except OSError as error:  # a full or read-only disk, a vanished file: the user's to mend, so no traceback
        fields = {"what": error.strerror or str(error), "where": error.filename and str(error.filename), "fix": None}
        report({"event": "error", **fields, "exit_code": 1})
        sys.exit(1)


def parse(name: str, argv: list[str]) -> dict[str, Any]:
    """Return the component's arguments: data inputs and outputs as Path, unset inputs as their default or None."""
    inputs = component_inputs(name)
    outputs = component_spec(name)["outputs"]
    parser = argparse.ArgumentParser(prog=f"python -m penala.components.{name}", allow_abbrev=False)
    for key, spec in inputs.items():
        parser.add_argument(f"--{key}", required=not spec.optional, help=spec.description.replace("%", "%%"))
    for key, declared in outputs.items():
        parser.add_argument(f"--{key}", required=True, help=declared.get("description", "").replace("%", "%%"))
    given = vars(parser.parse_args(argv))
    arguments: dict[str, Any] = {key: Path(given[key]) for key in outputs}
    for key, spec in inputs.items():
        if given[key] is None:
            arguments[key] = spec.default
        else:
            arguments[key] = Path(given[key]) if spec.is_data else spec.parse(given[key])
    return arguments
