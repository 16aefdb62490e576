"""penala deployments list | logs | delete"""

import json
from collections.abc import Mapping
from typing import Any

import click

from penala.cli import on_azureml
from penala.cli.output import confirm, say, table
from penala.cli.verbs import Verbs


@click.group(cls=Verbs)
def command() -> None:
    """Model versions behind an endpoint."""


@command.command("list")
@click.argument("endpoint")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@on_azureml.on
@click.pass_obj
def list_(workspace: str | None, endpoint: str, as_json: bool, on: str | None) -> None:
    """List the deployments of ENDPOINT."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        rows = endpoints.deployments(endpoint)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table(("name", "model", "state"), [(row["name"], _version(row), row["provisioning_state"]) for row in rows])


def _version(row: Mapping[str, Any]) -> str:
    """Return the model version of a deployment; Azure ML's rows have it in one."""
    return f"{row['model']}:{row['version']}" if "version" in row else row["model"]


@command.command()
@click.argument("endpoint")
@click.argument("deployment")
@click.option("--lines", type=click.IntRange(min=1), default=50, show_default=True)
@on_azureml.on
@click.pass_obj
def logs(workspace: str | None, endpoint: str, deployment: str, lines: int, on: str | None) -> None:
    """Print the last lines that a deployment wrote."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        print(endpoints.logs(endpoint, deployment, lines))


@command.command()
@click.argument("endpoint")
@click.argument("deployment")
@click.option("--yes", is_flag=True, help="Do not ask")
@on_azureml.on
@click.pass_obj
def delete(workspace: str | None, endpoint: str, deployment: str, yes: bool, on: str | None) -> None:
    """Remove a deployment that has no traffic."""
    with on_azureml.endpoints(workspace, on) as endpoints:
        if not yes:
            confirm(f"Remove {deployment} from {endpoint}?")
        endpoints.delete_deployment(endpoint, deployment)
    say(f"{deployment} is gone")
