"""penala chat"""

import sys

import click

from penala.cli.output import say


@click.command()
@click.argument("endpoint")
@click.option("--system", help="What the conversation starts with")
@click.pass_obj
def command(workspace: str | None, endpoint: str, system: str | None) -> None:
    """Talk to ENDPOINT in the terminal; an empty line or Ctrl-D ends it."""
    from penala.workspace.client import Workspace

    messages = [{"role": "system", "content": system}] if system else []
    with Workspace.open(workspace) as opened:
        opened.endpoints.show(endpoint)
        say(f"{endpoint} listens; an empty line ends it")
        while question := _ask():
            messages.append({"role": "user", "content": question})
            reply = ""
            for piece in opened.endpoints.chat(endpoint, messages):
                reply += piece
                print(piece, end="", flush=True)
            print()
            messages.append({"role": "assistant", "content": reply})


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
