"""penala endpoints list | show | keys | regenerate-key | traffic | delete"""

import json

import click

from penala.cli.output import say, table
from penala.errors import UsageError


@click.group()
def command() -> None:
    """Addresses that answer, their keys and traffic."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def list_(workspace: str | None, as_json: bool) -> None:
    """List the endpoints."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        rows = opened.endpoints.list()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    cells = [(row["name"], row["provisioning_state"], row["scoring_uri"], _split(row["traffic"])) for row in rows]
    table(("name", "state", "address", "traffic"), cells)


def _split(traffic: dict[str, int]) -> str:
    return ", ".join(f"{name} {share} %" for name, share in traffic.items()) or "-"


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def show(workspace: str | None, name: str, as_json: bool) -> None:
    """Show an endpoint: its addresses, its state, its traffic."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.endpoints.show(name)
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    table(("field", "value"), [(key, _split(value) if key == "traffic" else value) for key, value in shown.items()])


@command.command()
@click.argument("name")
@click.option("--primary", is_flag=True, help="The primary key alone, for $(...)")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def keys(workspace: str | None, name: str, primary: bool, as_json: bool) -> None:
    """Print an endpoint's two keys; either opens it."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        found = opened.endpoints.keys(name)
    if primary:
        print(found["primary_key"])
    elif as_json:
        print(json.dumps(found, indent=2))
    else:
        table(("key", "value"), list(found.items()))


@command.command("regenerate-key")
@click.argument("name")
@click.option("--key", type=click.Choice(["primary", "secondary"]), default="primary", show_default=True)
@click.pass_obj
def regenerate_key(workspace: str | None, name: str, key: str) -> None:
    """Make one key anew; the other one goes on working."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        opened.endpoints.regenerate_key(name, key)
    say(f"the {key} key of {name} is new; `penala endpoints keys {name}` shows it")


@command.command()
@click.argument("name")
@click.argument("shares", metavar="DEPLOYMENT=PERCENT...", nargs=-1, required=True)
@click.pass_obj
def traffic(workspace: str | None, name: str, shares: tuple[str, ...]) -> None:
    """Split the requests, e.g. penala endpoints traffic kopitiam blue=90 green=10"""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.endpoints.set_traffic(name, dict(map(_share, shares)))
    say(f"{name}: {_split(shown['traffic'])}")


def _share(text: str) -> tuple[str, int]:
    deployment, _, share = text.partition("=")
    if not share.isdigit():
        raise UsageError("is not DEPLOYMENT=PERCENT", where=text, fix="for example blue=90 green=10")
    return deployment, int(share)


@command.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask")
@click.pass_obj
def delete(workspace: str | None, name: str, yes: bool) -> None:
    """Remove an endpoint with its deployments, its keys and its port; registered models stay."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        opened.endpoints.show(name)
        if not yes:
            click.confirm(f"Remove {name} and its keys?", abort=True, err=True)
        opened.endpoints.delete(name)
    say(f"{name} is gone")
