"""penala components add | list | show"""

import json
from pathlib import Path

import click

from penala.cli.output import say, table
from penala.cli.verbs import Verbs


@click.group(cls=Verbs)
def command() -> None:
    """Components that jobs are made of: penala's own and yours."""


@command.command()
@click.option("-f", "--file", type=click.Path(path_type=Path), required=True, help="A component in Azure ML's YAML")
@click.option("--version", help="[default: the file's own, else the next whole number]")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def add(workspace: str | None, file: Path, version: str | None, as_json: bool) -> None:
    """Keep a copy of a component with its code, which jobs name as azureml:NAME:VERSION, e.g.
    penala components add -f train.yml

    Adding the same content again makes no other version.
    """
    from penala.workspace.client import Workspace

    with Workspace.open(workspace, create=True) as opened:
        row = opened.components.add(file, version)
        shown = opened.components.show(f"{row.name}:{row.version}")
    print(
        json.dumps(shown, indent=2, ensure_ascii=False, default=str) if as_json else f"azureml:{row.name}:{row.version}"
    )
    say(f"it is kept as it is now, at {shown['path']}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def list_(workspace: str | None, as_json: bool) -> None:
    """List the components that penala ships, and yours."""
    from penala.workspace.component_store import list_components

    rows = list_components(workspace)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    owner = {True: "penala", False: "you"}
    cells = [(row["name"], row["version"], row["type"], owner[row["shipped"]], row["about"]) for row in rows]
    table(("name", "version", "type", "from", "about"), cells)


@command.command()
@click.argument("component", metavar="NAME[:VERSION]")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def show(workspace: str | None, component: str, as_json: bool) -> None:
    """Show a component: its inputs, its outputs, where its YAML lies."""
    from penala.workspace.component_store import show_component

    shown = show_component(workspace, component)
    if as_json:
        print(json.dumps(shown, indent=2, ensure_ascii=False, default=str))
        return
    print("\n".join(f"{key:8}  {shown[key]}" for key in ("name", "version", "type", "path", "about")))
    for part in ("inputs", "outputs"):
        print()
        declared = shown["component"].get(part) or {}
        keys = ("type", "default", "description")
        cells = [(name, *(value.get(key) for key in keys)) for name, value in declared.items()]
        table((part, "type", "default", "description"), cells)
