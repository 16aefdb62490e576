"""penala data check | tokens"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from penala.cli.output import say
from penala.errors import UsageError

SHOWN = 20  # findings printed for a person; --json and --out have them all
SCHEMAS = ["auto", "messages", "sharegpt", "alpaca", "prompt_completion"]


@click.group()
def command() -> None:
    """Check conversations and look at their tokens."""


@command.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--schema", type=click.Choice(SCHEMAS), default="auto", show_default=True)
@click.option(
    "--column", "columns", metavar="OURS=THEIRS", multiple=True, help="Another name of a column: output=response"
)
@click.option("--out", type=click.Path(path_type=Path), help="Write every finding to this JSON file")
@click.option("--json", "as_json", is_flag=True, help="For machines: every finding")
def check(paths: tuple[str, ...], schema: str, columns: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Check every conversation in PATH...; exit 1 when a row has an error, e.g. penala data check train.jsonl"""
    from penala.workspace.data import check_data

    checked = check_data(list(paths), schema, _pairs(columns))
    if out is not None:
        checked.write_json(out)
    if as_json:
        text = json.dumps(checked.as_dict(), indent=2, ensure_ascii=False)
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"))  # a lone surrogate cannot be printed
    else:
        print(checked.summary(SHOWN))
        if len(checked.findings) > SHOWN:
            say(f"all findings are in {out}" if out else "--out FILE writes all findings")
    sys.exit(1 if any(finding.level == "error" for finding in checked.findings) else 0)


def _pairs(columns: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(column.partition("=")[::2] for column in columns)
    if wrong := [column for column in columns if "=" not in column]:
        raise UsageError("is not OURS=THEIRS", where=f"--column {wrong[0]}", fix="for example --column output=response")
    return pairs


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--row", type=click.IntRange(min=1), default=1, show_default=True, help="Which record, counted from 1")
@click.option("--model", required=True, help="A base model: what a recipe's base_model takes")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of id, text, supervised")
@click.pass_obj
def tokens(workspace: str | None, path: Path, row: int, model: str, as_json: bool) -> None:
    """Show the tokens of one training row, the supervised ones marked, e.g. penala data tokens train.jsonl --row 17
    --model SmolLM2-135M-Instruct
    """
    from penala.workspace.client import locate
    from penala.workspace.data import row_tokens

    view = row_tokens(path, row, model, locate(workspace) / "cache")
    if as_json:
        print(json.dumps(view, ensure_ascii=False))
        return
    _print_tokens(view)


def _print_tokens(view: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    marks = not console.is_terminal  # without colour, brackets carry the mask
    text, inside = Text(), False
    for token in view:
        if marks and token["supervised"] != inside:
            text.append("[[" if token["supervised"] else "]]")
        inside = token["supervised"]
        text.append(token["text"], style="bold green" if inside else "dim")
    if marks and inside:
        text.append("]]")
    console.print(text, soft_wrap=True)
    count = sum(token["supervised"] for token in view)
    say(f"{len(view)} tokens, {count} supervised ({'between [[ and ]]' if marks else 'green'})")
