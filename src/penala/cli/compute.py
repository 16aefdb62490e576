"""penala compute list | show"""

import json

import click

from penala.cli.output import table


@click.group()
def command() -> None:
    """The machines that jobs run on: this one, called local."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
def list_(as_json: bool) -> None:
    """List the computes."""
    from penala.workspace.compute import this_machine

    rows = [this_machine()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table(("name", "cores", "memory", "gpus", "arithmetic"), [_cells(row) for row in rows])


def _cells(row: dict[str, object]) -> tuple[object, ...]:
    return row["name"], row["cores"], f"{row['memory_gb']} GB", row["gpus"], row["arithmetic"]
