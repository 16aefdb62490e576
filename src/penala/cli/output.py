"""How commands print: data to stdout, everything else to stderr."""

import re
import sys
import time
from collections.abc import Iterable, Sequence

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal obeys them; names of files may hold them


def say(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    print(harmless(text), file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """Spell out control characters, but for line feeds and tabs."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as an aligned table on stdout; plain text, so that a pipe can read it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(*header, box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, show_edge=False)
    for row in rows:
        grid.add_row(*("-" if cell is None else str(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False)
    console.print(grid)


def moment(seconds: float) -> str:
    """Return a time, in seconds since 1970, as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
