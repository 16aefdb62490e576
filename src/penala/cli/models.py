"""penala models list | show | fetch | download | lineage"""

import json
from pathlib import Path
from typing import Any

import click

from penala.cli.output import say, table


@click.group()
def command() -> None:
    """Base models and tuned model versions."""


@command.command("list")
@click.option("--task", help="Only models of this task, e.g. chat-completion")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def list_(workspace: str | None, task: str | None, as_json: bool) -> None:
    """List the base models of the catalogue and the tuned versions of the workspace."""
    from penala.workspace.models import list_models

    rows = list_models(workspace, task)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table(
        ("name", "version", "kind", "about"), [(row["name"], row["version"], row["kind"], row["about"]) for row in rows]
    )


@command.command()
@click.argument("model", metavar="NAME[:VERSION]")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def show(workspace: str | None, model: str, as_json: bool) -> None:
    """Show a base model or a tuned version: tags, properties, where its weights come from."""
    from penala.workspace.models import show_model

    shown = show_model(workspace, model)
    if as_json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    table(("field", "value"), list(_flat(shown)))


def _flat(shown: dict[str, Any], prefix: str = "") -> Any:
    for key, value in shown.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else value


@command.command()
@click.argument("model", metavar="MODEL")
@click.pass_obj
def fetch(workspace: str | None, model: str) -> None:
    """Bring a base model's weights into the workspace, converted and ready, so that the first run need not wait."""
    from penala.workspace.client import Workspace
    from penala.workspace.models import fetch_base

    with Workspace.open(workspace, create=True) as opened:
        folder = fetch_base(opened, model, lambda event: say(event["text"]) if event["event"] == "note" else None)
    print(folder)


@command.command()
@click.argument("model", metavar="NAME:VERSION")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist")
@click.pass_obj
def download(workspace: str | None, model: str, to: Path) -> None:
    """Copy a model version's MLflow folder to a folder of yours."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace, create=True) as opened:
        print(opened.models.download(model, to))


@command.command()
@click.argument("model", metavar="NAME:VERSION")
@click.pass_obj
def lineage(workspace: str | None, model: str) -> None:
    """Draw what a tuned version was made from: job, steps, base model, data."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        print(opened.models.lineage(model))
