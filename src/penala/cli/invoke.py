"""penala invoke"""

import json
from typing import Any, TextIO

import click

from penala.cli import on_azureml
from penala.cli.output import say
from penala.errors import UsageError


@click.command()
@click.argument("endpoint")
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.option("-d", "--deployment", help="Ask this deployment, past the traffic split")
@on_azureml.on
@click.pass_obj
def command(workspace: str | None, endpoint: str, file: TextIO, deployment: str | None, on: str | None) -> None:
    """Send a conversation to ENDPOINT and print the reply's JSON, e.g. penala invoke kopitiam question.json

    FILE [default: stdin] is a /score body, {"messages": [...]} or a bare list of messages.
    """
    document = read_document(file)
    with on_azureml.endpoints(workspace, on) as endpoints:
        print(json.dumps(endpoints.invoke(endpoint, document, deployment=deployment), ensure_ascii=False))


def read_document(file: TextIO) -> Any:
    """Return the JSON of a file; raise UsageError with the place where it breaks."""
    fix = """for example [{"role": "user", "content": "Hello!"}]"""
    if file.isatty():
        say(f"type a conversation, {fix}, and Ctrl-D")
    try:
        return json.load(file)
    except ValueError as error:
        raise UsageError(f"is not JSON: {error}", where=getattr(file, "name", "-"), fix=fix) from None
