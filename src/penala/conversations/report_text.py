"""The report as text for a terminal: the same figures as the page, from the same dict."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from penala.conversations.page import share
from penala.conversations.visible import visible

Figures = Mapping[str, Any]
BAR = 40  # characters of the longest bar
LINES = 14  # of the histogram
SHOWN_SIZES = 12
SHOWN_FILES = 20
SHOWN_PAIRS = SHOWN_REFUSED = 3
LEDGER_LINES = ("in", "trained", "masked", "dropped")
LIMITS = {"context": "the model takes", "max_seq_length": "max_seq_length is"}


def text(figures: Figures) -> str:
    """Return the report; nothing in it can disturb a terminal."""
    parts = [_rows, _findings]
    if figures["good"]:
        parts += [_messages, _lengths, _duplicates, _model, _notable]
    return visible("\n".join(line for part in parts for line in part(figures)))


def _rows(figures: Figures) -> Iterator[str]:
    yield f"{figures['rows']:,} rows, {figures['good']:,} good, {figures['bad']:,} bad"
    files = figures["files"]
    header = ("file", "read as", "rows", "good", "bad")
    cells = [(f["file"], f["schema"], f["rows"], f["good"], f["rows"] - f["good"]) for f in files[:SHOWN_FILES]]
    yield from _table(header, cells)
    if len(files) > SHOWN_FILES:
        yield f"  and {len(files) - SHOWN_FILES:,} more files"


def _findings(figures: Figures) -> Iterator[str]:
    yield from _title("Findings")
    if not figures["findings"]:
        yield "  none"
    for found in figures["findings"]:
        more = ", ..." if found["count"] > len(found["places"]) else ""
        yield f"  {found['level']:<7} {found['count']:>7,} x {found['code']}: {found['message']}"
        yield f"            {found['fix']}"
        yield f"            {', '.join(found['places'])}{more}"


def _messages(figures: Figures) -> Iterator[str]:
    yield from _title("Messages a row")
    sizes = figures["messages_a_row"]
    shown = sizes if len(sizes) <= SHOWN_SIZES else sizes[: SHOWN_SIZES - 1]
    bars = [(f"{size['messages']:,}", size["rows"]) for size in shown]
    if len(sizes) > len(shown):
        rest = sizes[len(shown) :]
        bars.append((f"{rest[0]['messages']:,}-{rest[-1]['messages']:,}", sum(size["rows"] for size in rest)))
    yield from _bars(bars)
    yield from _title("Roles")
    roles = figures["roles"]
    total = sum(role["characters"] for role in roles)
    yield from _table(
        ("role", "rows", "messages", "characters", "share"),
        [
            (role["role"], role["rows"], role["messages"], role["characters"], share(role["characters"], total))
            for role in roles
        ],
    )


def _lengths(figures: Figures) -> Iterator[str]:
    lengths = figures["lengths"]
    yield from _title(f"Length of a row in {lengths['unit']}")
    if figures["model"] is None:
        yield "  --model M counts tokens"
    yield "  " + "   ".join(f"{name} {lengths[name]:,}" for name in ("p50", "p90", "p99", "max"))
    for name, limit in lengths["limits"].items():
        yield f"  {LIMITS[name]} {limit:,} {lengths['unit']}"
    found = lengths["bins"]
    step = -(-len(found) // LINES) or 1
    groups = [found[n : n + step] for n in range(0, len(found), step)]
    bars = [(f"{group[0]['from']:,}-{group[-1]['to']:,}", sum(one["rows"] for one in group)) for group in groups]
    yield from _bars(bars)


def _duplicates(figures: Figures) -> Iterator[str]:
    found = figures["duplicates"]
    near = found["near"]
    yield from _title("Duplicates")
    yield f"  {found['exact']:>7,} say the same as an earlier row"
    yield f"  {found['in_two_splits']:>7,} stand in two splits"
    yield f"  {near['rows']:>7,} say nearly the same as an earlier row ({near['similar']:.0%} of their word triples)"
    yield from (f"    {pair['place']} is like {pair['near']}" for pair in near["pairs"][:SHOWN_PAIRS])
    if near["left_out"]:
        yield f"  for that, only the first {near['looked_at']:,} rows were looked at; {near['left_out']:,} were not"


def _model(figures: Figures) -> Iterator[str]:
    model, cost = figures["model"], figures["cost"]
    if model is not None:
        ledger = model["ledger"]
        yield from _title(f"What a run with {model['name']} would do, if it may drop rows")
        counts = [(name, ledger["rows"][name], ledger["tokens"][name]) for name in LEDGER_LINES]
        yield from _table(("", "rows", "tokens"), counts)
        for name, reasons in ledger["reasons"].items():
            yield f"  {name} for " + ", ".join(_reason(reason, **counted) for reason, counted in reasons.items())
        trained, supervised = model["trained_tokens"], model["supervised_tokens"]
        yield f"  {share(supervised, trained)} of the tokens of trained rows carry loss"
        yield from (f"  {remark['what']} (rows: {remark['rows']:,})" for remark in model["remarks"])
        if refused := model["refused"]["rows"]:
            yield f"  {refused:,} of the rows stop any run with this model, the first:"
            yield from (f"    {said}" for said in model["refused"]["first"][:SHOWN_REFUSED])
    yield from _title("Cost")
    unit = cost["unit"]
    yield f"  {cost['an_epoch']:,} {unit} an epoch x {cost['epochs']:,} = {cost['total']:,} {unit}"


def _reason(reason: str, rows: int, tokens: int) -> str:
    return f"{reason} {rows:,} ({tokens:,} tokens)" if tokens else f"{reason} {rows:,}"


def _notable(figures: Figures) -> Iterator[str]:
    yield from _title("Longest and oddest rows")
    for row in figures["notable"]:
        yield f"  {row['file']}:{row['line']}: {row['why']}: {row['excerpt']}"
        yield f"    {row['show']}"
    if figures["model"] is not None and figures["notable"]:
        yield f"  tokens of the first: {figures['notable'][0]['tokens']}"


def _title(words: str) -> tuple[str, str]:
    return "", words


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Align columns: text to the left, numbers to the right."""
    lines = [list(header), *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows)]
    if len(lines) == 1:
        return
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    is_text = [not line[:1].isdigit() for line in lines[1]]
    for line in lines:
        cells = zip(line, widths, is_text, strict=True)
        yield "  " + "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in cells).rstrip()


def _bars(bars: Sequence[tuple[str, int]]) -> Iterator[str]:
    if not bars:
        return
    width, tallest = max(len(name) for name, _ in bars), max(count for _, count in bars)
    digits = len(f"{tallest:,}")
    for name, count in bars:
        length = max(round(BAR * count / tallest), 1) if count else 0
        yield f"  {name:>{width}}  {count:>{digits},}  {'#' * length}".rstrip()
