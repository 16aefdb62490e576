"""What a finished run leaves a person with: the figures, the address, and the next command to type."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from textwrap import shorten
from typing import Any

from penala.cli.follow import duration
from penala.cli.output import say, table, typed

CELL_WIDTH = 200  # characters of a reply; the evaluation's report.md has it whole


def print_summary(result: dict[str, Any], tables: list[tuple[str, list[list[str]]]], *, again: str) -> None:
    """Print the outcome of a run on stdout; what to do next when it did not complete goes to stderr."""
    if result["status"] != "Completed":
        _print_failure(result, again)
        return
    for title, rows in tables:
        print(f"\n{title}")
        table(rows[0], [[shorten(cell, CELL_WIDTH, placeholder=" ...") for cell in row] for row in rows[1:]])
    print()
    _print_figures(result)
    model = result["model"]
    if model:
        print(f"model     {model['name']}:{model['version']}")
    if result["endpoint"]:
        _print_endpoint(result["endpoint"], result["reply"])
    elif model:
        print("\n" + typed("models", "download", f"{model['name']}:{model['version']}", "--to", "DIR"))


def _print_failure(result: dict[str, Any], again: str) -> None:
    if result["error"]:
        say(f"error: {result['error']}")
    say(f"{result['job']} is {result['status']}. `{typed('jobs', 'logs', result['job'])}` shows its logs;")
    say(f"`{again}` goes on where it stopped")


def _print_figures(result: dict[str, Any]) -> None:
    if ledger := result["ledger"]:
        rows = ledger["rows"]
        parts = [f"{count} {name.replace('_', ' ')}" for name, count in rows.items() if name != "in" and count]
        print(f"rows      {rows['in']} in: {', '.join(parts)}")
    if training := result["training"]:
        speed = f"{training['tokens']:,} tokens in {duration(training['seconds'])}"
        memory = f"{training['peak_memory_bytes'] / 1e9:.1f} GB at most"
        print(f"training  {training['steps']} steps, {speed}, {memory}, loss {training['loss']:.3f}")
    evaluation = result["evaluation"] or {}
    before, after = evaluation.get("before") or {}, evaluation.get("after") or {}
    if after.get("accuracy") is not None:
        print(f"accuracy {before['accuracy'] * 100:.0f} % -> {after['accuracy'] * 100:.0f} %")


def _print_endpoint(endpoint: dict[str, Any], reply: str | None) -> None:
    name = endpoint["name"]
    body = json.dumps({"input_data": {"input_string": [{"role": "user", "content": "Hello!"}], "parameters": {}}})
    print(f"endpoint  {endpoint['scoring_uri']} and {endpoint['openai_base_url']}")
    if reply is not None:
        print(f"reply     {reply}")
    _print_activation()
    print("\nAsk it:")
    print(f"""  echo '[{{"role": "user", "content": "Hello!"}}]' | {typed("invoke", name)}""")
    print(f"  {typed('chat', name)}")
    print(f"  curl {endpoint['scoring_uri']} -H 'Content-Type: application/json' \\")
    print(f"""    -H "Authorization: Bearer $({typed("endpoints", "keys", name, "--primary")})" \\""")
    print(f"    -d '{body}'")
    print(f"Remove it:\n  {typed('endpoints', 'delete', name)}")


def _print_activation() -> None:
    """Say how a shell finds `penala` that does not, as after `make demo`."""
    activate, here = Path(sys.prefix, "bin/activate"), Path.cwd()
    if shutil.which("penala") is None and activate.is_file():
        shown = activate.relative_to(here) if activate.is_relative_to(here) else activate
        print(f"\nOnce in this shell:\n  source {shlex.quote(str(shown))}")
