"""penala jobs create | rerun | list | show | stream | logs | cancel | download"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penala.cli import on_azureml
from penala.cli.follow import Display, duration, fetching, follow
from penala.cli.output import moment, put_json, say, table, typed
from penala.cli.verbs import Verbs
from penala.errors import PenalaError

if TYPE_CHECKING:
    from penala.workspace.client import Workspace


@click.group(cls=Verbs)
def command() -> None:
    """Create, follow, stop and read jobs."""


@command.command()
@click.option("-f", "--file", type=click.Path(path_type=Path), required=True, help="The job's YAML")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a value, e.g. inputs.epochs=3")
@click.option("--name", help="The job's name [default: the document's, else a new one]")
@click.option("--stream", "streamed", is_flag=True, help="Follow the job to its end")
@click.option("--json", "as_json", is_flag=True, help="For machines; with --stream, one JSON object a line")
@click.pass_obj
def create(
    workspace: str | None, file: Path, changes: tuple[str, ...], name: str | None, streamed: bool, as_json: bool
) -> None:
    """Run a pipeline, command or finetuning job written for Azure ML, e.g. penala jobs create -f job.yml

    Everything that is wrong with it is told before anything runs.
    """
    from penala.workspace.client import Workspace
    from penala.workspace.documents import read_job, submit_job

    with Workspace.open(workspace, create=True) as opened:
        with fetching("Fetching what the job needs") as report:
            document = read_job(
                file, workspace=opened, set_=(*changes, *([f"name={name}"] if name else [])), report=report
            )
        for note in document.notes:
            say(note)
        made = submit_job(opened, document)
        _made(opened, made, streamed=streamed, as_json=as_json)


@command.command()
@click.argument("name")
@click.option("--force-rerun", is_flag=True, help="Run every step again, even an unchanged one")
@click.option("--stream", "streamed", is_flag=True, help="Follow the job to its end")
@click.option("--json", "as_json", is_flag=True, help="For machines; with --stream, one JSON object a line")
@click.pass_obj
def rerun(workspace: str | None, name: str, force_rerun: bool, streamed: bool, as_json: bool) -> None:
    """Run what a job ran once more, as a new job; what has not changed is reused."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        made = opened.jobs.rerun(name, force=force_rerun)
        opened.jobs.start(made)
        _made(opened, made, streamed=streamed, as_json=as_json)


def _made(opened: "Workspace", name: str, *, streamed: bool, as_json: bool) -> None:
    """Say which job was made, and follow it if asked to."""
    if streamed:
        if not as_json:
            say(f"{name} is queued")
        _stream(opened, name, as_json=as_json)
    elif as_json:
        put_json({"name": name, "status": opened.jobs.row(name).status})
    else:
        print(f"{name} {opened.jobs.row(name).status}")
        _say_next(name, "stream", "show", "cancel")


def _say_next(name: str, *verbs: str) -> None:
    say("next: " + ", ".join(f"`{typed('jobs', verb, name)}`" for verb in verbs))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@on_azureml.on
@click.pass_obj
def list_(workspace: str | None, as_json: bool, on: str | None) -> None:
    """List all jobs, newest first."""
    if on:
        on_azureml.list_jobs(on, as_json=as_json)
        return
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        rows = opened.jobs.list()
    if as_json:
        fields = ("name", "display_name", "status", "created", "started", "ended")
        put_json([{field: getattr(row, field) for field in fields} for row in rows], indent=2)
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
@on_azureml.on
@click.pass_obj
def show(workspace: str | None, name: str, as_json: bool, on: str | None) -> None:
    """Show a job, its steps and its outputs."""
    if on:
        on_azureml.show_job(on, name, as_json=as_json)
        return
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.jobs.show(name)
    if as_json:
        put_json(shown, indent=2)
        return
    print(f"{shown['name']}: {shown['status']}")
    if shown["error"]:
        print(f"error: {shown['error']['what']}")
    steps = [(step["name"], "Completed, reused" if step["reused"] else step["status"]) for step in shown["jobs"]]
    outputs = [(output, about["path"]) for output, about in shown["outputs"].items()]
    for header, rows in ((("step", "status"), steps), (("output", "path"), outputs)):
        if rows:
            table(header, rows)
    _say_next(name, *(("logs", "download", "rerun") if shown["ended"] else ("stream", "logs", "cancel")))


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the last is the result")
@on_azureml.on
@click.pass_obj
def stream(workspace: str | None, name: str, as_json: bool, on: str | None) -> None:
    """Follow a job to its end. Ctrl-C stops following, not the job."""
    if on:
        on_azureml.stream_job(on, name, as_json=as_json)
        return
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        _stream(opened, name, as_json=as_json)


def _stream(opened: "Workspace", name: str, *, as_json: bool) -> None:
    """Follow a job, print its result or its summary, and exit 1 unless it is Completed."""
    with Display.choose(opened.jobs.titles(name), as_json=as_json) as display:
        # as on Azure ML, a command job is its log; that of a pipeline would mix those of its steps
        follow(opened, name, display, cancel=False, logs=opened.jobs.row(name).kind == "command")
    result = opened.jobs.result(name)
    if as_json:
        put_json(result)
    else:
        _summarise(opened, name)
    sys.exit(0 if result["status"] == "Completed" else 1)


def _summarise(opened: "Workspace", name: str) -> None:
    """Print how a job ended: its steps and outputs, or why it failed and where the log is."""
    row = opened.jobs.row(name)
    steps = [
        (step.name, "Completed, reused" if step.reused_from else step.status, _took(step))
        for step in opened.jobs.steps(name)
    ]
    say(f"\nexecution summary of {name}: {row.status} in {_took(row)}")
    table(("step", "status", "took"), steps)
    if row.status == "Completed":
        _say_next(name, "show", "download")
        return
    error = row.error or {}
    if error.get("step"):
        say(f"step {error['step']} failed")
    for line in () if row.kind == "command" else error.get("lines") or ():  # a command's have been shown
        say(f"    {line}")
    if error.get("what"):
        say(f"error: {PenalaError(error['what'], where=error.get('where'), fix=error.get('fix'))}")
    if error.get("log"):
        say(f"its log is {error['log']}")
    _say_next(name, "logs", "rerun")


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
@on_azureml.on
@click.pass_obj
def cancel(workspace: str | None, name: str, on: str | None) -> None:
    """Ask a job to stop, and wait until it has; finished steps stay done."""
    if on:
        on_azureml.cancel_job(on, name)
        return
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
@on_azureml.on
@click.pass_obj
def download(workspace: str | None, name: str, output_name: str | None, to: Path, on: str | None) -> None:
    """Copy a job's outputs to DIR/named-outputs/OUTPUT."""
    if on:
        on_azureml.download_job(on, name, output_name, to)
        return
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        for path in opened.jobs.download(name, output_name, to):
            print(path)
