"""penala jobs list | show | stream | logs | cancel | download"""

import json
import sys
from pathlib import Path

import click

from penala.cli.follow import Display, duration, follow
from penala.cli.output import moment, say, table


@click.group()
def command() -> None:
    """Follow, stop and read jobs."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def list_(workspace: str | None, as_json: bool) -> None:
    """List all jobs, newest first."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        rows = opened.jobs.list()
    if as_json:
        fields = ("name", "display_name", "status", "created", "started", "ended")
        print(json.dumps([{field: getattr(row, field) for field in fields} for row in rows], indent=2))
        return
    table(
        ("name", "status", "created", "took"), [(row.name, row.status, moment(row.created), _took(row)) for row in rows]
    )


def _took(row: object) -> str:
    started, ended = getattr(row, "started", None), getattr(row, "ended", None)
    return "-" if started is None or ended is None else duration(ended - started)


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def show(workspace: str | None, name: str, as_json: bool) -> None:
    """Show a job, its steps and its outputs."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.jobs.show(name)
    if as_json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    print(f"{shown['name']}: {shown['status']}")
    if shown["error"]:
        print(f"error: {shown['error']['what']}")
    steps = [(step["name"], "Completed, reused" if step["reused"] else step["status"]) for step in shown["jobs"]]
    table(("step", "status"), steps)
    table(("output", "path"), [(output, about["path"]) for output, about in shown["outputs"].items()])


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the last is the result")
@click.pass_obj
def stream(workspace: str | None, name: str, as_json: bool) -> None:
    """Follow a job to its end. Ctrl-C stops following, not the job."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        with Display.choose(opened.jobs.titles(name), as_json=as_json) as display:
            follow(opened, name, display, cancel=False)
        result = opened.jobs.result(name)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        say(f"{name} is {result['status']}" + (f": {result['error']}" if result["error"] else ""))
    sys.exit(0 if result["status"] == "Completed" else 1)


@command.command()
@click.argument("name")
@click.argument("step", required=False)
@click.pass_obj
def logs(workspace: str | None, name: str, step: str | None) -> None:
    """Print the logs of a job's steps, or of one STEP."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        for one, text in opened.jobs.logs(name, step):
            say(f"--- {one}")
            print(text, end="" if text.endswith("\n") or not text else "\n")


@command.command()
@click.argument("name")
@click.pass_obj
def cancel(workspace: str | None, name: str) -> None:
    """Ask a job to stop, and wait until it has; finished steps stay done."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        opened.jobs.cancel(name)
        for _ in opened.jobs.follow(name, revive=True):
            pass
        say(f"{name} is {opened.jobs.row(name).status}")


@command.command()
@click.argument("name")
@click.option("--output-name", help="One output [default: all]")
@click.option("--to", type=click.Path(path_type=Path), default=Path(), help="Folder [default: the working folder]")
@click.pass_obj
def download(workspace: str | None, name: str, output_name: str | None, to: Path) -> None:
    """Copy a job's outputs to DIR/named-outputs/OUTPUT."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        for path in opened.jobs.download(name, output_name, to):
            print(path)
