"""The report as one HTML page: the same figures as the text, from the same dict."""

from collections.abc import Mapping, Sequence
from typing import Any

from penala.conversations.histogram import PERCENTILES, drawing
from penala.conversations.page import page

SHOWN_FILES, SHOWN_PATHS = 20, 5
SHOWN_SIZES = 16  # numbers of messages with a line of their own; the rest share one
LIMITS = {"context": "the model takes", "max_seq_length": "max_seq_length"}
LIMIT_WORDS = {"context": "The model takes", "max_seq_length": "max_seq_length is"}
LEDGER_WORDS = {
    "in": "every row that was read; a bad one has no tokens",
    "trained": "whole rows; of the tokens, those that carry loss",
    "masked": "rows that nothing is learned from; of the tokens, the prompts of trained rows too",
    "dropped": "never reach the model",
}
REASON_WORDS = {
    "too_long": "longer than the limit; on_too_long: cut_turns would shorten those that it can",
    "template_or_mask": "the chat template refuses them, or nothing proves their mask: a run stops at them",
    "not_chosen": "none of their assistant messages is chosen by train_on or train_tool_calls",
    "weight_0": "their assistant messages all have the weight 0",
}


def report_page(figures: Mapping[str, Any], title: str = "Data report") -> str:
    """Return the page of what `Collector.figures` gave."""
    lengths = figures["lengths"]
    names = (*(f"p{share}" for share in PERCENTILES), "max")
    marks = {name: lengths[name] for name in names} | {LIMITS[name]: at for name, at in lengths["limits"].items()}
    sizes = _sizes(figures["messages_a_row"])
    return page(
        "report.html.j2",
        **figures,
        title=title,
        first_files=sorted(figures["files"], key=lambda file: file["good"] - file["rows"])[:SHOWN_FILES],
        shown_paths=SHOWN_PATHS,
        drawing=drawing(lengths["bins"], marks) if lengths["bins"] else None,
        sizes=sizes,
        most_rows=max((size["rows"] for size in sizes), default=1),
        limit_names=LIMITS,
        limit_words=LIMIT_WORDS,
        ledger_words=LEDGER_WORDS,
        reason_words=REASON_WORDS,
    )


def _sizes(counts: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    named = [{"name": f"{count['messages']:,}", "rows": count["rows"]} for count in counts]
    if len(counts) <= SHOWN_SIZES:
        return named
    rest = counts[SHOWN_SIZES - 1 :]
    name = f"{rest[0]['messages']:,} to {rest[-1]['messages']:,}"
    return [*named[: SHOWN_SIZES - 1], {"name": name, "rows": sum(count["rows"] for count in rest)}]
