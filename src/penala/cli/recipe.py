"""penala recipe init | show | schema | check | export"""

import json
from importlib.resources import files
from pathlib import Path

import click

from penala.cli.output import say, table, typed
from penala.cli.verbs import Verbs
from penala.errors import UsageError


@click.group(cls=Verbs)
def command() -> None:
    """Write, check and explain recipes."""


@command.command()
@click.argument("path", type=click.Path(path_type=Path), default="recipe.yaml")
def init(path: Path) -> None:
    """Write a commented recipe to PATH [default: recipe.yaml]."""
    if path.exists():
        raise UsageError("is there already", where=str(path), fix="name another file, or remove it first")
    if not path.parent.is_dir():
        raise UsageError("no such folder", where=str(path.parent))
    path.write_text((files("penala") / "recipe.template.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    say(f"{path} is written. Next: put your conversations beside it, then `{typed('recipe', 'check', str(path))}`")


@command.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a value, e.g. finetuning.lora_r=8")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def show(workspace: str | None, recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print every value that RECIPE runs with, and who set it: you, the model's publisher, penala or the component."""
    from penala.recipe import Recipe
    from penala.workspace.models import existing
    from penala.workspace.run import explain

    with existing(workspace) as found:
        rows, notes = explain(Recipe.load(recipe, overrides), found)
    if as_json:
        print(json.dumps([{"key": key, "value": value, "source": source} for key, value, source in rows], indent=2))
    else:
        table(("key", "value", "set by"), [(key, _shown(value), source) for key, value, source in rows])
    for note in notes:
        say(note)


def _shown(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@command.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from penala.recipe import json_schema

    print(json.dumps(json_schema(), indent=2))


@command.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a value, e.g. finetuning.lora_r=8")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def check(workspace: str | None, recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check all that can be checked without loading a model: keys, values, files, every conversation."""
    from penala.recipe import Recipe, set_flags
    from penala.workspace.models import existing
    from penala.workspace.run import preflight

    with existing(workspace) as found:
        checked = preflight(Recipe.load(recipe, overrides), found)
    if as_json:
        print(json.dumps({"status": "ok", "notes": checked.notes, "data": checked.data}, indent=2, ensure_ascii=False))
        return
    for note in checked.notes:
        say(note)
    say(f"{recipe} is fine. Next: `{typed('run', str(recipe), *set_flags(overrides))}`")


@command.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(["azureml"]), default="azureml", show_default=True, help="Whose YAML is written"
)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a value, e.g. finetuning.lora_r=8")
@click.pass_obj
def export(workspace: str | None, recipe: Path, folder: Path, to: str, overrides: tuple[str, ...]) -> None:
    """Write RECIPE to DIR as Azure ML's YAML: job, components, compute, endpoint and deployment.

    `az ml job create -f DIR/job.yml` takes it there, `penala jobs create -f DIR/job.yml` runs the same file here.
    """
    from penala.cli import on_azureml

    on_azureml.export(workspace, recipe, folder, overrides)
