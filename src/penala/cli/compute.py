"""penala compute list | show | create | sizes | delete"""

import json
from typing import Any

import click

from penala.cli.output import say, table
from penala.cli.verbs import Verbs


@click.group(cls=Verbs)
def command() -> None:
    """The machines that jobs run on: this one, called local, and computes that stand in for a cloud's."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def list_(workspace: str | None, as_json: bool) -> None:
    """List the computes."""
    from penala.workspace.compute import list_computes

    rows = list_computes(workspace)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table(
        ("name", "size", "state", "about"), [(r["name"], r["size"], r["provisioning_state"], r["about"]) for r in rows]
    )


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def show(workspace: str | None, name: str, as_json: bool) -> None:
    """Show a compute: its size, its GPUs, how many nodes it may have."""
    from penala.workspace.compute import show_compute

    shown = show_compute(workspace, name)
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    table(("field", "value"), list(shown.items()))


@command.command()
@click.argument("name")
@click.option("--size", required=True, help="A size of Azure's, e.g. Standard_NC24ads_A100_v4; `sizes` lists them")
@click.option("--min-instances", type=int, default=0, show_default=True)
@click.option("--max-instances", type=int, default=4, show_default=True)
@click.option("--idle-seconds", type=int, default=120, show_default=True, help="Before an idle node is given back")
@click.option("--tier", type=click.Choice(["dedicated", "low_priority"]), default="dedicated", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def create(workspace: str | None, /, name: str, size: str, as_json: bool, **settings: Any) -> None:
    """Create a compute that stands in for a cloud size, or change its settings, e.g.
    penala compute create gpu-cluster --size Standard_ND40rs_v2
    """
    from penala.workspace.client import Workspace
    from penala.workspace.compute import Settings
    from penala.workspace.sizes import find_size

    chosen = Settings(**settings)
    with Workspace.open(workspace, create=True) as opened:
        made = opened.computes.create(name, size, chosen)
    print(json.dumps(made.to_dict(), indent=2) if as_json else made.name)
    found = find_size(size)
    if found.gone:
        say(f"warning: Azure retired {found.name} on {found.retired}; the same name will not do there")
    say(f"{made.name} {made.describe()}")
    if found.gpus:
        say("a job that counts on its GPUs keeps its effective batch: fewer devices accumulate more")


@command.command()
@click.option("--gpu", is_flag=True, help="Only sizes with GPUs")
@click.option("--json", "as_json", is_flag=True, help="For machines")
def sizes(gpu: bool, as_json: bool) -> None:
    """List the sizes that a compute may stand in for, with what Azure has retired."""
    from penala.workspace.compute import list_sizes

    rows = [row for row in list_sizes() if row["gpus"] or not gpu]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    header = ("name", "GPUs", "GPU", "vCPUs", "memory", "retired")
    columns = ("name", "gpus", "gpu", "vcpus", "memory_gb", "retired")
    table(header, [[f"{r[c]} GiB" if c == "memory_gb" else r[c] for c in columns] for r in rows])


@command.command()
@click.argument("name")
@click.pass_obj
def delete(workspace: str | None, name: str) -> None:
    """Delete a compute that was created; jobs that named it keep what they have."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        opened.computes.delete(name)
    say(f"{name} is deleted")
