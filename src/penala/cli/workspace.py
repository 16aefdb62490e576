"""penala workspace init | status | gc | doctor"""

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from penala.cli.output import confirm, say, table, typed
from penala.cli.verbs import Verbs


@click.group(cls=Verbs)
def command() -> None:
    """The folder that holds everything: jobs, models, endpoints."""


@command.command()
@click.pass_obj
def init(workspace: str | None) -> None:
    """Make a workspace [default: ./.penala, or --workspace DIR]."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace, create=True) as opened:
        say(f"{opened.folder} is ready")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def status(workspace: str | None, as_json: bool) -> None:
    """Say where the workspace lies, what its disk holds, and what of it can go."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.status()
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(shown["folder"])
    used = [(f"artifacts of {kind}", size) for kind, size in shown["artifacts"].items()]
    used += [(name, size) for name, size in shown["bytes"].items() if name != "artifacts"]
    table(("what", "MB"), [(name, _mb(size)) for name, size in used if size])
    print(f"{shown['jobs']} jobs, {shown['models']} model versions, {shown['endpoints']} endpoints")
    print(f"{_mb(shown['free_bytes'])} MB are free on the disk ({shown['file_system']})")
    if shown["can_go"]["bytes"]:
        say(f"`{typed('workspace', 'gc')}` would free {_mb(shown['can_go']['bytes'])} MB")
    say(f"`{typed('workspace', 'gc', '--jobs-older-than', 'DAYS', '--dry-run')}` says what old jobs hold")


@command.command()
@click.option("--jobs-older-than", "days", metavar="DAYS", type=click.FloatRange(min=0), help="Give up old jobs too")
@click.option("--dry-run", is_flag=True, help="Only say what would go")
@click.option("--yes", is_flag=True, help="Do not ask before jobs go")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def gc(workspace: str | None, days: float | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove what nothing needs any more, also while jobs run.

    By itself it removes what no job, model, data asset or deployment can use: artifacts that nobody names, and what
    processes that died left half written (not younger than an hour).

    With --jobs-older-than, jobs that ended so many days ago go as well, with what they left for reuse. One that a
    registered model or a data asset came from keeps its logs and its lineage.
    """
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        if days is not None and not (dry_run or yes):
            found = opened.collect(older_than_days=days, dry_run=True)
            confirm(f"Remove {_summary(found)}?")
        found = opened.collect(older_than_days=days, dry_run=dry_run)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    parts = ("jobs", "artifacts", "leftovers", "logs")
    table(("what", "number", "MB"), [(name, found[name]["count"], _mb(found[name]["bytes"])) for name in parts])
    print(f"{'would go' if dry_run else 'gone'}: {_summary(found)}")


def _summary(found: Mapping[str, Any]) -> str:
    thinned = f", the outputs of {found['thinned_jobs']} more" if found["thinned_jobs"] else ""
    return f"{found['jobs']['count']} jobs{thinned}, {found['cache_entries']} cache entries, {_mb(found['bytes'])} MB"


@command.command()
@click.option("--deep", is_flag=True, help="Read every artifact and compare it with its digest")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def doctor(workspace: str | None, deep: bool, as_json: bool) -> None:
    """Look for what is broken and say how to mend it; exit 1 if something is."""
    from penala.workspace.client import require
    from penala.workspace.doctor import examine

    report = examine(require(workspace), deep=deep)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for check in report["checks"]:
            found = [finding for finding in report["findings"] if finding["check"] == check]
            print(f"{check}: {'fine' if not found else ''}".rstrip())
            for finding in found:
                print(f"  {finding['level']}: {finding['where']}: {finding['what']}; {finding['fix']}")
    sys.exit(0 if report["healthy"] else 1)


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f}"
