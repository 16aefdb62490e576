"""penala workspace init | status"""

import json

import click

from penala.cli.output import say, table


@click.group()
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
    """Say where the workspace lies and what its disk holds."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.status()
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(shown["folder"])
    table(("what", "MB"), [(name, f"{size / 1e6:,.1f}") for name, size in shown["bytes"].items()])
    print(f"{shown['jobs']} jobs, {shown['models']} model versions, {shown['endpoints']} endpoints")
