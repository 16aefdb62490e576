"""penala run"""

import sys
from pathlib import Path
from typing import Any, Literal

import click

from penala.cli import on_azureml
from penala.cli.follow import Display, fetching, follow
from penala.cli.output import put_json, say, typed
from penala.cli.summary import print_summary


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a value, e.g. finetuning.lora_r=8")
@click.option("--dry-run", is_flag=True, help="Check everything, show what would run, start nothing")
@click.option("--force-rerun", is_flag=True, help="Run every step again, even an unchanged one")
@click.option("--no-deploy", is_flag=True, help="Stop after the tuned model is registered")
@on_azureml.on
@click.option("--components", type=click.Choice(["azureml", "penala"]), help="On Azure ML: whose [default: azureml]")
@click.option("--job", metavar="NAME", help="On Azure ML: follow a job that was sent before, and go on from there")
@click.option("--yes", is_flag=True, help="On Azure ML: do not ask before anything is billed")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the last is the result")
@click.pass_obj
def command(
    workspace: str | None,
    recipe: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    force_rerun: bool,
    no_deploy: bool,
    as_json: bool,
    on: str | None,
    components: Literal["azureml", "penala"] | None,
    job: str | None,
    yes: bool,
) -> None:
    """Take RECIPE's conversations to a tuned model behind an endpoint, e.g. penala run recipe.yaml

    Ctrl-C cancels; the same command goes on where it stopped. A closed terminal stops nothing: the job runs on. On
    Azure ML, Ctrl-C stops watching only.
    """
    from penala.errors import PenalaError, UsageError

    try:
        if on is None and (components or job or yes):
            raise UsageError("--components, --job and --yes are for Azure ML", fix="add --on azureml")
        if on is None:
            result = _run(workspace, recipe, overrides, dry_run, force_rerun, not no_deploy, as_json)
        else:
            asked = on_azureml.Asked(
                recipe,
                on,
                overrides,
                components or "azureml",
                job,
                dry_run=dry_run,
                force_rerun=force_rerun,
                deploy=not no_deploy,
                yes=yes,
                as_json=as_json,
            )
            result = on_azureml.run(asked, lambda: _cache(workspace))
    except PenalaError as error:
        if as_json:
            put_json(_refused(error))
        raise
    if result is None:
        return
    if as_json:
        put_json(result)
    sys.exit(0 if result["status"] == "Completed" else 1)


def _run(
    workspace: str | None,
    file: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    force_rerun: bool,
    deploy: bool,
    as_json: bool,
) -> dict[str, Any] | None:
    from penala.recipe import Recipe, set_flags
    from penala.workspace.client import Workspace
    from penala.workspace.models import existing
    from penala.workspace.run import evaluation_tables, preflight, submit

    recipe = Recipe.load(file, overrides)
    if not as_json:
        say(f"checking {file}")
    with existing(workspace) as found:
        checked = preflight(recipe, found)
    for note in checked.notes:
        say(note)
    flags = set_flags(overrides) + ["--force-rerun"] * force_rerun + ["--no-deploy"] * (not deploy)
    again = typed("run", str(file), *flags)
    if dry_run:
        say(f"{file} is fine. Next: `{again}`")
        return None
    with Workspace.open(workspace, create=True) as opened:
        with fetching("Fetching conversations") as report:
            name = submit(opened, recipe, checked, force_rerun=force_rerun, deploy=deploy, report=report)
        with Display.choose(opened.jobs.titles(name), as_json=as_json) as display:
            follow(opened, name, display)
        result = opened.jobs.result(name)
        if not as_json:
            print_summary(result, evaluation_tables(opened, name), again=again)
    return result


def _cache(workspace: str | None) -> Path:
    """Return where fetched conversations are kept."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace, create=True) as opened:
        return opened.cache


def _refused(error: Exception) -> dict[str, Any]:
    """Return the result of a run that never became a job."""
    names = ("job", "model", "endpoint", "ledger", "training", "evaluation", "reply")
    return {"event": "result", "status": "Failed", "error": str(error), **dict.fromkeys(names)}
