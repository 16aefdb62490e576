"""`--on azureml`: the one module of the command line that asks the Azure face, inside functions.

The option's value is azureml, for the workspace of the nearest config.json (or, of `penala run`, of the recipe), or
azureml=FILE for that of a config.json or a recipe.
"""

import importlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penala.cli.follow import Display, fetching
from penala.cli.output import say, table
from penala.errors import UsageError, WorkspaceError

if TYPE_CHECKING:
    from penala.azure.remote.base_model import Components
    from penala.azure.remote.nouns import RemoteEndpoints, RemoteWorkspace
    from penala.azure.remote.plan import RemotePlan
    from penala.azure.remote.target import Target
    from penala.recipe import Recipe
    from penala.workspace.endpoints import Endpoints

STAGES = {"compute": "Make the cluster ready", "submit": "Upload the conversations and send the job"}


def _check(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value != "azureml" and not value.startswith("azureml="):
        raise click.BadParameter(f"{value} is no place; use azureml or azureml=FILE")
    return value


on = click.option(
    "--on",
    metavar="azureml[=FILE]",
    callback=_check,
    help="Azure ML instead of this machine: the workspace of the nearest config.json, or of FILE",
)


def require_sdk() -> None:
    """Raise WorkspaceError that says how to install Azure's SDK where it is missing."""
    try:
        importlib.import_module("penala.azure.remote.connection")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("azure"):
            raise
        raise WorkspaceError("Azure's SDK is not installed", fix="pip install 'penala[azure]'") from None


def target(place: str) -> "Target":
    """Return the workspace that the option's value means, for a command without a recipe."""
    from penala.azure.remote.target import nearest, of_file

    _, _, file = place.partition("=")
    return of_file(Path(file)) if file else nearest(Path.cwd())


def remote(place: str) -> "RemoteWorkspace":
    """Sign in, and return the nouns of the workspace that `place` means."""
    require_sdk()
    from penala.azure.remote.connection import Connection
    from penala.azure.remote.nouns import RemoteWorkspace

    return RemoteWorkspace(Connection(target(place), interactive=sys.stdin.isatty()), place)


@dataclass(frozen=True, slots=True)
class Asked:
    """What `penala run` was asked for."""

    file: Path
    place: str
    overrides: tuple[str, ...] = ()
    components: "Components" = "azureml"
    job: str | None = None
    dry_run: bool = False
    force_rerun: bool = False
    deploy: bool = True
    yes: bool = False
    as_json: bool = False

    @property
    def again(self) -> str:
        """The command that does the same from the beginning."""
        from penala.recipe import set_flags

        words = ["penala", "run", str(self.file), "--on", self.place]
        words += [] if self.components == "azureml" else ["--components", self.components]
        return shlex.join([*words, *set_flags(self.overrides)])


def run(asked: Asked, cache: Callable[[], Path]) -> dict[str, Any] | None:
    """Run a recipe on Azure ML and return the result; None after a dry run. `cache` gives the place for hub sets."""
    from penala.recipe import Recipe

    recipe = Recipe.load(asked.file, asked.overrides)
    require_sdk()
    from penala.azure.remote.run import RemoteRun

    plan = _checked(asked, recipe, cache)
    if asked.dry_run:
        say(f"{asked.file} is fine; nothing was started. Next: `{asked.again}`")
        return None
    if asked.job is None and not asked.yes:
        _confirm(str(plan.connection.target))
    named = recipe.azureml is not None and recipe.azureml.subscription_id is not None
    later = f"azureml={asked.file}" if named and "=" not in asked.place else asked.place
    with Display.choose(STAGES, as_json=asked.as_json) as display:
        started = RemoteRun(recipe, plan, display.show, again=asked.again, on=later)
        try:
            result = started.execute(job=asked.job, force_rerun=asked.force_rerun, deploy=asked.deploy)
        except KeyboardInterrupt:
            result = started.result | {"error": "no longer watched"}
    if not asked.as_json:
        print_result(result, started.next_step(), later)
    elif result["error"]:
        say(started.next_step())
    return result


def _checked(asked: Asked, recipe: "Recipe", cache: Callable[[], Path]) -> "RemotePlan":
    """Do every check, the local ones before the sign-in; say what is to be told and what will be billed."""
    from penala.azure.remote.connection import Connection
    from penala.azure.remote.offline import check_here
    from penala.azure.remote.preflight import check_there
    from penala.azure.remote.target import of_recipe

    say(f"checking {asked.file}")
    where = target(asked.place) if "=" in asked.place else of_recipe(recipe)
    with fetching("Fetching conversations") as report:
        kept = None if asked.dry_run else cache
        here = check_here(recipe, asked.components, deploy=asked.deploy, cache=kept, report=report)
    say(f"signing in to {where}")
    connection = Connection(where, interactive=sys.stdin.isatty())
    sent = asked.job is not None
    plan = check_there(connection, recipe, here, asked.components, deploy=asked.deploy, sent=sent)
    for line in (*plan.notes, *(f"cost: {line}" for line in plan.costs)):
        say(line)
    return plan


def _confirm(where: str) -> None:
    """Ask before anything is billed; where nobody can answer, refuse."""
    if not sys.stdin.isatty():
        raise UsageError("would be billed, and nobody is here to say yes", where=where, fix="add --yes")
    click.confirm(f"Start it in {where}?", abort=True, err=True)


def print_result(result: dict[str, Any], next_step: str, place: str) -> None:
    """Print what a run left in Azure, and the next commands."""
    if result["error"]:
        say(f"error: {result['error']}")
        say(next_step)
        return
    print(f"job       {result['job']}")
    print(f"model     {result['model']['name']}:{result['model']['version']}")
    if endpoint := result["endpoint"]:
        name = endpoint["name"]
        print(f"endpoint  {endpoint['scoring_uri']}")
        if result["reply"] is not None:
            print(f"reply     {result['reply']}")
        print(f"""\nAsk it:\n  echo '[{{"role": "user", "content": "Hello!"}}]' | penala invoke {name} --on {place}""")
        print(f"Remove it, for it costs every hour:\n  penala endpoints delete {name} --on {place}")


def export(workspace: str | None, file: Path, folder: Path, overrides: tuple[str, ...]) -> None:
    """Write a recipe as YAML for Azure ML into `folder`, and print the files."""
    require_sdk()
    from penala.azure.export import export
    from penala.recipe import Recipe
    from penala.workspace.client import Workspace

    recipe = Recipe.load(file, overrides)
    with Workspace.open(workspace, create=True) as opened, fetching("Fetching conversations") as report:
        made = export(recipe, folder, opened, report)
    for one in made:
        print(one)
    job = next(one for one in made if one.name == "job.yml")
    say(f"Next: `penala jobs create -f {job} --stream` here, `az ml job create -f {job}` on Azure ML")


# --- the nouns: what a command shows of Azure instead of this machine


@contextmanager
def endpoints(workspace: str | None, place: str | None) -> "Iterator[Endpoints | RemoteEndpoints]":
    """Give the endpoints of the local workspace, or of the one in Azure that `place` means."""
    if place is not None:
        yield remote(place).endpoints
        return
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        yield opened.endpoints


def list_jobs(place: str, *, as_json: bool) -> None:
    """Print the newest jobs."""
    _print_rows(remote(place).jobs.list(), ("name", "status", "created"), as_json=as_json)


def show_job(place: str, name: str, *, as_json: bool) -> None:
    """Print a job, its steps and its page."""
    shown = remote(place).jobs.show(name)
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(f"{shown['name']}: {shown['status']}")
    for step in shown["jobs"]:
        step["status"] += ", reused" if step["reused"] else ""
    _print_rows(shown["jobs"], ("display_name", "status"), as_json=False)
    print(f"its page  {shown['studio']}")


def stream_job(place: str, name: str, *, as_json: bool) -> None:
    """Follow a job to its end; exit 1 unless it is Completed. Ctrl-C stops following, not the job."""
    jobs = remote(place).jobs
    with Display.choose({}, as_json=as_json) as display:
        status, error = jobs.follow(name, display.show)
    if as_json:
        print(json.dumps({"event": "result", "status": status, "job": name, "error": error}))
    else:
        print(f"{name} {status}")
        if error:
            say(f"error: {error}")
    sys.exit(0 if status == "Completed" else 1)


def cancel_job(place: str, name: str) -> None:
    """Stop a job."""
    say(f"{name} is {remote(place).jobs.cancel(name)}")


def download_job(place: str, name: str, output: str | None, to: Path) -> None:
    """Copy a job's outputs to this machine, and print where they are."""
    for path in remote(place).jobs.download(name, output, to):
        print(path)


def list_models(place: str, task: str | None, *, as_json: bool) -> None:
    """Print the registered models, or those of one task."""
    _print_rows(remote(place).models.list(task), ("name", "version"), as_json=as_json)


def download_model(place: str, reference: str, to: Path) -> None:
    """Copy a model version to this machine, and print where it is."""
    print(remote(place).models.download(reference, to))


def show_model(place: str, reference: str, *, as_json: bool) -> None:
    """Print a model version."""
    shown = remote(place).models.show(reference)
    if as_json:
        print(json.dumps(shown, indent=2))
    else:
        table(("field", "value"), list(shown.items()))


def _print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table(columns, [[row[column] for column in columns] for row in rows])
