"""Contestants of a benchmark take turns, each in a process of its own, so that one tells its own peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def take_turns(
    script: str, contestants: Iterable[str], rounds: int, *options: str, environment: Mapping[str, str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Run `script --worker CONTESTANT options` so many times each; return the JSON objects that were printed last."""
    runs: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant, found in runs.items():
            command = [sys.executable, script, "--worker", contestant, *options]
            done = subprocess.run(
                command, env=os.environ | (environment or {}), stdout=subprocess.PIPE, check=True, text=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return runs
