"""penala endpoints list | show | keys | regenerate-key | traffic | delete"""

import json

import click

from penala.cli import on_azureml
from penala.cli.output import confirm, say, table, typed
from penala.cli.verbs import Verbs
from penala.errors import UsageError


@click.group(cls=Verbs)
def command() -> None:
    """Addresses that answer, their keys and traffic."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@on_azureml.on
@click.pass_obj
def list_(workspace: str | None, as_json: bool, on: str | None) -> None:
    """List the endpoints."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        rows = endpoints.list()
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
@on_azureml.on
@click.pass_obj
def show(workspace: str | None, name: str, as_json: bool, on: str | None) -> None:
    """Show an endpoint: its addresses, its state, its traffic."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        shown = endpoints.show(name)
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    table(("field", "value"), [(key, _split(value) if key == "traffic" else value) for key, value in shown.items()])


@command.command()
@click.argument("name")
@click.option("--primary", is_flag=True, help="The primary key alone, for $(...)")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@on_azureml.on
@click.pass_obj
def keys(workspace: str | None, name: str, primary: bool, as_json: bool, on: str | None) -> None:
    """Print an endpoint's two keys; either opens it."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        found = endpoints.keys(name)
    if primary:
        print(found["primary_key"])
    elif as_json:
        print(json.dumps(found, indent=2))
    else:
        table(("key", "value"), list(found.items()))


@command.command("regenerate-key")
@click.argument("name")
@click.option("--key", type=click.Choice(["primary", "secondary"]), default="primary", show_default=True)
@on_azureml.on
@click.pass_obj
def regenerate_key(workspace: str | None, name: str, key: str, on: str | None) -> None:
    """Make one key anew; the other one goes on working."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        endpoints.regenerate_key(name, key)
    say(f"the {key} key of {name} is new; `{typed('endpoints', 'keys', name)}` shows it")


@command.command()
@click.argument("name")
@click.argument("shares", metavar="DEPLOYMENT=PERCENT...", nargs=-1, required=True)
@on_azureml.on
@click.pass_obj
def traffic(workspace: str | None, name: str, shares: tuple[str, ...], on: str | None) -> None:
    """Split the requests, e.g. penala endpoints traffic kopitiam blue=90 green=10"""
    with on_azureml.endpoints(workspace, on) as endpoints:
        shown = endpoints.set_traffic(name, dict(map(_share, shares)))
    say(f"{name}: {_split(shown['traffic'])}")


def _share(text: str) -> tuple[str, int]:
    deployment, _, share = text.partition("=")
    if not share.isdigit():
        raise UsageError("is not DEPLOYMENT=PERCENT", where=text, fix="for example blue=90 green=10")
    return deployment, int(share)


@command.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask")
@on_azureml.on
@click.pass_obj
def delete(workspace: str | None, name: str, yes: bool, on: str | None) -> None:
    """Remove an endpoint with its deployments, its keys and its port; registered models stay."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        endpoints.show(name)
        if not yes:
            confirm(f"Remove {name} and its keys?")
        endpoints.delete(name)
    say(f"{name} is gone")
