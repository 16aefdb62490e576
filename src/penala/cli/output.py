"""How commands print: data to stdout, everything else to stderr."""

import json
import math
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

_MANY_ROWS = 200  # rich takes half a millisecond for each
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal obeys them; names of files may hold them


def say(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    print(harmless(text), file=sys.stderr, flush=True)


def put_json(value: Any, indent: int | None = None) -> None:
    """Print a value for machines, in ASCII: lines of JSON are cut at U+2028 by many. NaN, which JSON lacks, is null."""
    print(json.dumps(_finite(value), indent=indent), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def typed(*words: str) -> str:
    """Return a penala command as a person types it next: quoted for a shell, with the workspace named for this one."""
    context = click.get_current_context(silent=True)
    workspace = context.find_root().obj if context else None
    return shlex.join(["penala", *(["-w", workspace] if workspace else []), *words])


def confirm(question: str) -> None:
    """Ask before something goes, and raise click.Abort without a yes; where nobody can answer, say how to do it."""
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        if not sys.stdin.isatty():
            say("\nnobody said yes; --yes does it without the question")
        raise


def harmless(text: str) -> str:
    """Spell out control characters, but for line feeds and tabs."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as an aligned table on stdout; plain text, so that a pipe can read it."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty() or len(cells) > _MANY_ROWS:
        _plain_table([list(header), *cells])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in cells:
        grid.add_row(*row)
    Console(highlight=False, markup=False, emoji=False).print(grid)


def _plain_table(rows: Sequence[Sequence[str]]) -> None:
    padded = map(_padded, zip(*rows, strict=True))
    lines = [" ".join(row).rstrip() for row in zip(*padded, strict=True)]
    print(harmless("\n".join(lines)))


def _padded(column: Sequence[str]) -> list[str]:
    """Return the cells of a column, all as wide as the widest."""
    if all(map(str.isascii, column)):
        width = max(map(len, column))
        return [cell.ljust(width) for cell in column]
    widths = list(map(_columns, column))
    widest = max(widths)
    return [cell + " " * (widest - width) for cell, width in zip(column, widths, strict=True)]


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text fills."""
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def moment(seconds: float) -> str:
    """Return a time, in seconds since 1970, as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
