"""penala data check | report | show | tokens | download"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from penala.cli.follow import duration
from penala.cli.output import harmless, moment, say, table
from penala.cli.verbs import Verbs
from penala.errors import UsageError

SHOWN = 20  # findings printed for a person; --json and --out have them all
SCHEMAS = ["auto", "messages", "sharegpt", "alpaca", "prompt_completion"]
SHOWN_ROWS = 20
SAY_AFTER_S = 2.0  # how often a long check or report says how far it is
STYLES = {
    "place": "bold",
    "system": "magenta",
    "user": "cyan",
    "assistant": "green",
    "tool": "yellow",
    "call": "bold yellow",
    "more": "dim",
    "error": "bold red",
    "warning": "yellow",
    "note": "dim",
}


def _reading(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how files are read."""
    column = click.option(
        "--column", "columns", metavar="OURS=THEIRS", multiple=True, help="Another name of a column: output=response"
    )
    return click.option("--schema", type=click.Choice(SCHEMAS), default="auto", show_default=True)(column(command))


@click.group(cls=Verbs)
def command() -> None:
    """Check conversations, look at their tokens, and keep files as data assets."""


@command.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@_reading
@click.option("--out", type=click.Path(path_type=Path), help="Write every finding to this JSON file")
@click.option("--json", "as_json", is_flag=True, help="For machines: every finding")
def check(paths: tuple[str, ...], schema: str, columns: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Check every conversation in PATH...; exit 1 when a row has an error, e.g. penala data check train.jsonl"""
    from penala.workspace.data import check_data

    checked = check_data(list(paths), schema, _pairs(columns), out, _progress())
    if as_json:
        _put(json.dumps(checked.as_dict(), indent=2, ensure_ascii=False))
    else:
        _put(harmless(checked.summary(SHOWN)))
        if len(checked.findings) > SHOWN:
            say(f"all findings are in {out}" if out else "--out FILE writes all findings")
    sys.exit(1 if any(finding.level == "error" for finding in checked.findings) else 0)


def _pairs(columns: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for ours, _, theirs in (column.partition("=") for column in columns):
        if pairs.setdefault(ours, theirs) != theirs:
            raise UsageError(f"is {pairs[ours]} and {theirs}", where=f"--column {ours}", fix="say it once")
    if wrong := [column for column in columns if "=" not in column]:
        raise UsageError("is not OURS=THEIRS", where=f"--column {wrong[0]}", fix="for example --column output=response")
    return pairs


@command.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@_reading
@click.option("--model", help="A base model: what a recipe's base_model takes; lengths are then counted in its tokens")
@click.option("--max-seq-length", type=click.IntRange(min=1), help="The limit that a recipe would set, in tokens")
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the report to this HTML file too")
@click.option("--json", "as_json", is_flag=True, help="For machines: every figure")
@click.pass_obj
def report(workspace: str | None, /, paths: tuple[str, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Say what the conversations in PATH... are like: lengths, roles, duplicates, findings, what a run would do with
    them, the oddest rows, e.g. penala data report train.jsonl --model SmolLM2-135M-Instruct --out report.html

    Exit 0 whatever it finds: `penala data check` is the judge.
    """
    from penala.workspace.data import report_data, report_text

    options["columns"] = _pairs(options["columns"])
    figures = report_data(list(paths), workspace=workspace, page=out, progress=_progress(), **options)
    _put(json.dumps(figures, indent=2, ensure_ascii=False) if as_json else report_text(figures))
    if out is not None:
        say(f"the page is in {out}")


def _progress() -> Callable[[int, float], None]:
    """Return a function that is told the number of rows and the share that is read, and says it now and then."""
    started = last = time.monotonic()

    def progress(rows: int, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > SAY_AFTER_S:
            last = now
            left = f", {share:.0%}, {duration((now - started) * (1 / share - 1))} left" if share else ""
            say(f"{rows:,} rows{left}")

    return progress


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--row", type=click.IntRange(min=1), help="The record to show, or to begin with; counted from 1")
@click.option("--limit", type=click.IntRange(min=1), help=f"At most so many rows [default: {SHOWN_ROWS}, or the --row]")
@_reading
@click.option("--json", "as_json", is_flag=True, help="For machines: the good rows in canonical form, one a line")
def show(path: Path, row: int | None, limit: int | None, schema: str, columns: tuple[str, ...], as_json: bool) -> None:
    """Show the conversations in PATH, good and bad, e.g. penala data show train.jsonl --row 17"""
    from penala.workspace.data import row_json, row_lines, show_rows

    count = limit or (SHOWN_ROWS if row is None else 1)
    rows = show_rows(path, row or 1, count, schema=schema, columns=_pairs(columns))
    if not as_json:
        _show_lines([*row_lines(judged), ("", "")] for judged in rows)
        return
    for judged in rows:
        if judged.conversation is not None:
            _put(row_json(judged.conversation))
        else:
            say("\n".join(text for _, text in row_lines(judged)))


def _show_lines(blocks: Iterable[list[tuple[str, str]]]) -> None:
    """Print lines in the colours of what they are; page them when a person sits at the terminal."""
    if not sys.stdout.isatty():
        for block in blocks:
            _put("\n".join(text for _, text in block))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for kind, text in (line for block in blocks for line in block):
            role, _, is_name = kind.partition(" ")
            style = STYLES.get(role, "")
            console.print(Text(text, style=f"bold {style}" if is_name else style), soft_wrap=True)
    click.echo_via_pager(captured.get(), color=console.color_system is not None)


def _put(text: str) -> None:
    """Print text that may hold what the terminal's encoding cannot."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--row", type=click.IntRange(min=1), default=1, show_default=True, help="Which record, counted from 1")
@click.option("--model", required=True, help="A base model: what a recipe's base_model takes")
@_reading
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write the tokens to this HTML file too")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of id, text, supervised")
@click.pass_obj
def tokens(workspace: str | None, /, path: Path, row: int, model: str, as_json: bool, **options: Any) -> None:
    """Show the tokens of one training row, the supervised ones marked, e.g. penala data tokens train.jsonl --row 17
    --model SmolLM2-135M-Instruct
    """
    from penala.workspace.data import row_tokens

    options["columns"] = _pairs(options["columns"])
    view = row_tokens(path, row, model, workspace, **options)
    if as_json:
        print(json.dumps(view, ensure_ascii=False))
    else:
        _print_tokens(view)
    if options["page"] is not None:
        say(f"the page is in {options['page']}")


def _print_tokens(view: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    from penala.workspace.data import visible

    console = Console(highlight=False, markup=False, emoji=False)
    marks = not console.is_terminal  # without colour, brackets carry the mask
    text, inside = Text(), False
    for token in view:
        if marks and token["supervised"] != inside:
            text.append("[[" if token["supervised"] else "]]")
        inside = token["supervised"]
        text.append(visible(token["text"]), style="bold green" if inside else "dim")
    if marks and inside:
        text.append("]]")
    console.print(text, soft_wrap=True)
    count = sum(token["supervised"] for token in view)
    say(f"{len(view)} tokens, {count} supervised ({'between [[ and ]]' if marks else 'green'})")


@command.command()
@click.argument("repo", metavar="REPO")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder that gets SPLIT.jsonl of each split"
)
@click.option("--percent", type=float, default=100.0, show_default=True, help="The first so many percent of the rows")
@click.option("--split", "splits", metavar="NAME", multiple=True, help="Only this split; may be said again")
@click.option("--config", metavar="NAME", help="The configuration, of a set that has several")
@click.option("--revision", metavar="REV", help="A branch, a tag or a commit [default: main]")
@click.option("--force", is_flag=True, help="Fetch again, and overwrite what is there")
@click.option("--json", "as_json", is_flag=True, help="For machines: rows and bytes moved of each split")
def download(repo: str, as_json: bool, **options: Any) -> None:
    """Write the first rows of a Hugging Face data set as JSON lines, and move little more than those, e.g.
    penala data download HuggingFaceH4/ultrachat_200k --percent 5 --out data

    The same command goes on where a cut connection stopped it. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
    """
    from penala.cli.follow import fetching
    from penala.workspace.data import download_set

    with fetching(f"Fetching {repo}") as report:
        done = download_set(repo, report=report, **options)
    splits = done["splits"]
    if as_json:
        print(json.dumps(done, indent=2, ensure_ascii=False))
    else:
        table(
            ("split", "rows", "of", "moved", "file"),
            [(name, got["rows"], got["of"], _moved(got), got["file"]) for name, got in splits.items()],
        )
    say(f"Next: `penala data check {shlex.join(got['file'] for got in splits.values())}`")


def _moved(got: dict[str, Any]) -> str:
    if got["reused"]:
        return "is there"
    size = got["bytes_moved"]
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


@command.command()
@click.argument("name")
@click.option("--from", "source", metavar="PATH", required=True, help="A file or folder of yours")
@click.option("--version", help="[default: the next whole number]")
@click.option("--type", "type_", type=click.Choice(["uri_file", "uri_folder", "mltable"]), help="[default: what it is]")
@click.option("--description")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def add(workspace: str | None, /, name: str, source: str, version: str | None, as_json: bool, **options: Any) -> None:
    """Keep a copy of PATH as a data asset, which jobs and recipes name as azureml:NAME:VERSION, e.g.
    penala data add kopi --from train.jsonl

    Adding the same content again makes no other version.
    """
    from penala.workspace.client import Workspace

    about = {"description": options["description"]} if options["description"] else None
    with Workspace.open(workspace, create=True) as opened:
        row = opened.data.add(name, source, version, options["type_"], about)
        asset = opened.data.describe(row)
    print(json.dumps(asset, indent=2, ensure_ascii=False) if as_json else asset["id"])
    say(f"it is kept as it is now, at {asset['path']}; `conversations.train: {asset['id']}` in a recipe names it")


@command.command("list")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def list_(workspace: str | None, name: str | None, as_json: bool) -> None:
    """List the data assets, or the versions of NAME."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        rows = opened.data.list(name)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    header = ("name", "version", "type", "digest", "created", "description")
    table(header, [[*_asset_cells(row), row.get("description")] for row in rows])


def _asset_cells(row: dict[str, Any]) -> list[object]:
    return [row["name"], row["version"], row["type"], row["digest"][:12], moment(row["created"])]


@command.command()
@click.argument("asset", metavar="NAME[:VERSION]")
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.pass_obj
def asset(workspace: str | None, asset: str, as_json: bool) -> None:
    """Show a data asset: where its files lie, their digest, the job that wrote them."""
    from penala.workspace.client import Workspace

    with Workspace.open(workspace) as opened:
        shown = opened.data.describe(opened.data.get(asset))
    if as_json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    table(("field", "value"), [(key, moment(value) if key == "created" else value) for key, value in shown.items()])
