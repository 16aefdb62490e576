"""An evaluation as tables: lists of rows of text, the first being the heading, for the command line and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from penala.evaluation.questions import evenly
from penala.evaluation.settings import SHOWN

Table = list[list[str]]


def summary_table(evaluation: Mapping[str, Any]) -> Table:
    """Return loss, perplexity and accuracy before and after, with a row for each group."""
    before, after = evaluation["before"], evaluation["after"]
    table = [
        ["", "before", "after"],
        ["loss (nats a token)", _number(before["loss"]), _number(after["loss"])],
        ["perplexity", _number(before["perplexity"]), _number(after["perplexity"])],
    ]
    if "accuracy" in after:
        judged = evaluation["judged"]
        table.append(["accuracy", _share(before["accuracy"], judged), _share(after["accuracy"], judged)])
    for group in evaluation.get("groups", []):
        table.append([group["name"], *(_share(group[side], group["rows"]) for side in ("before", "after"))])
    return table


def replies_table(answers: Sequence[Mapping[str, Any]], limit: int | None = SHOWN) -> Table:
    """Return some replies side by side, evenly spread over the rows; a judged one is marked right or wrong."""
    table = [["question", "in the data", "before", "after"]]
    for answer in evenly(answers, limit):
        sides = (_marked(answer, side) for side in ("before", "after"))
        table.append([answer["question"], answer["reference"] or "", *sides])
    return table


def forgetting_table(evaluation: Mapping[str, Any]) -> Table:
    """Return the replies to the unrelated questions side by side."""
    rows = [[row["question"], _said(row["before"]), _said(row["after"])] for row in evaluation["forgetting"]]
    return [["question", "before", "after"], *rows]


def report_text(evaluation: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole evaluation as Markdown."""
    if evaluation["split"] is None:
        text = "# Evaluation\n\nThere was no test or validation row to evaluate on.\n"
    else:
        tokens = f"{evaluation['tokens']:,} supervised tokens"
        text = f"# Evaluation\n\nOn {evaluation['rows']} rows of {evaluation['split']}, {tokens}.\n\n"
        text += _markdown(summary_table(evaluation))
    if answers:
        text += "\n## Replies\n\n" + _markdown(replies_table(answers, limit=None))
    if evaluation["forgetting"]:
        text += "\n## Unrelated questions\n\n" + _markdown(forgetting_table(evaluation))
    return text


def _markdown(table: Table) -> str:
    heading, *rows = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in table]
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _marked(answer: Mapping[str, Any], side: str) -> str:
    mark = "" if answer["right"] is None else "right: " if answer["right"][side] else "wrong: "
    return mark + _said(answer[side])


def _said(reply: str | None) -> str:
    return "(no room for a reply)" if reply is None else reply


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}" if value < 1000 else f"{value:,.0f}"


def _share(value: float | None, rows: int) -> str:
    return "-" if value is None else f"{value:.0%} ({round(value * rows)} of {rows})"
