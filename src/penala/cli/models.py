"""penala models list | show | add | fetch | download | verify | explain | lineage"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from penala.cli import on_azureml
from penala.cli.output import say, table, typed
from penala.cli.verbs import Verbs
from penala.errors import UsageError


@click.group(cls=Verbs)
def command() -> None:
    """Base models and tuned model versions."""


@command.command("list")
@click.option("--task", help="Only models of this task, e.g. chat-completion")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@on_azureml.on
@click.pass_obj
def list_(workspace: str | None, task: str | None, as_json: bool, on: str | None) -> None:
    """List the base models of the catalogue and the tuned versions of the workspace."""
    if on:
        on_azureml.list_models(on, task, as_json=as_json)
        return
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
@on_azureml.on
@click.pass_obj
def show(workspace: str | None, model: str, as_json: bool, on: str | None) -> None:
    """Show a base model or a tuned version: tags, properties, where its weights come from."""
    if on:
        on_azureml.show_model(on, model, as_json=as_json)
        return
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
            yield f"{prefix}{key}", ", ".join(map(_text, value)) if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


@command.command()
@click.argument("name")
@click.option("--from", "source", metavar="SOURCE", required=True, help="A folder, a .gguf file or a hub id OWNER/NAME")
@click.option("--version", help="[default: the next whole number]")
@click.option("--registry", default="azureml", show_default=True, help="Part of its id; look-ups ignore it")
@click.option("--task", help="[default: the tag task, else chat-completion]")
@click.option(
    "--tags", metavar="FILE", help="JSON object; what is no text becomes a Python literal, as Azure's SDK writes"
)
@click.option("--properties", metavar="FILE", help="JSON object, likewise")
@click.option("--system-metadata", metavar="FILE", help="JSON object: where Azure keeps allow lists since 2026")
@click.option("--finetune-config", metavar="FILE", help="JSON object that wins over the one in the model's folder")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def add(workspace: str | None, /, name: str, source: str, version: str | None, as_json: bool, **about: Any) -> None:
    """Add a base model of yours to the catalogue, which recipes and jobs then name, e.g.
    penala models add kopi-base --from ./model --tags tags.json

    Its files stay where they are. Adding the same again makes no other version.
    """
    from penala.workspace.client import Workspace

    for key in ("tags", "properties", "system_metadata", "finetune_config"):
        about[key] = None if about[key] is None else _json_object(about[key])
    with Workspace.open(workspace, create=True) as opened:
        entry = opened.models.add(name, source, version, report=_say_notes, **about)
        shown = opened.models.show(entry.reference)
    print(json.dumps(shown, indent=2, ensure_ascii=False) if as_json else entry.id)
    say(f"`base_model: {entry.reference}` in a recipe names it; `{typed('models', 'show', entry.reference)}` shows it")


def _json_object(file: str) -> dict[str, Any]:
    try:
        loaded = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError("no such file", where=file, fix="check the path") from None
    except ValueError as error:
        raise UsageError(f"is no JSON: {error}", where=file) from None
    if not isinstance(loaded, dict):
        raise UsageError("holds no JSON object", where=file, fix='write {"name": value, ...}')
    return loaded


def _say_notes(event: dict[str, Any]) -> None:
    if event["event"] == "note":
        say(event["text"])


@command.command()
@click.argument("model", metavar="MODEL")
@click.pass_obj
def fetch(workspace: str | None, model: str) -> None:
    """Bring a base model's weights into the workspace, converted and ready, so that the first run need not wait."""
    from penala.workspace.client import Workspace
    from penala.workspace.models import fetch_base

    with Workspace.open(workspace, create=True) as opened:
        folder = fetch_base(opened, model, _say_notes)
    print(folder)


@command.command()
@click.argument("model", metavar="NAME:VERSION")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist")
@on_azureml.on
@click.pass_obj
def download(workspace: str | None, model: str, to: Path, on: str | None) -> None:
    """Copy a model version's MLflow folder to a folder of yours."""
    if on:
        on_azureml.download_model(on, model, to)
        return
    from penala.workspace.client import Workspace

    with Workspace.open(workspace, create=True) as opened:
        print(opened.models.download(model, to, _say_notes))


@command.command()
@click.argument("model", metavar="NAME:VERSION")
@click.pass_obj
def lineage(workspace: str | None, model: str) -> None:
    """Draw what a tuned version was made from: job, steps, base model, data."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        print(opened.models.lineage(model))


@command.command()
@click.argument("model", metavar="NAME:VERSION")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def verify(workspace: str | None, model: str, as_json: bool) -> None:
    """Read every byte of a version and say whether it is what was registered; exit 1 when it is not.

    The template lock of a tuned version is checked too.
    """
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        found = opened.models.verify(model)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    for problem in found["problems"]:
        say(f"error: {found['model']}: {problem}")
    if found["ok"]:
        say(f"{found['model']} is what was registered")
    sys.exit(0 if found["ok"] else 1)


@command.command()
@click.argument("model", metavar="NAME:VERSION")
@click.option("--json", "as_json", is_flag=True, help="For machines: everything, the recipe's text and packages too")
@click.pass_obj
def explain(workspace: str | None, model: str, as_json: bool) -> None:
    """Say what a version was made of, and the command that makes it again."""
    from penala.workspace.client import Workspace
    from penala.workspace.provenance import explained

    with Workspace.open(workspace) as opened:
        found = opened.models.explain(model)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table(("field", "value"), list(_flat(found) if "sources" in found else explained(found)))
