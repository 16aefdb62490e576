"""Compare the tuned model with its base: on the test rows, or on the validation rows where there is no test split."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penala.conversations.conversation import Conversation, read_jsonl
from penala.errors import DataError
from penala.evaluation.answers import is_right
from penala.evaluation.questions import Question, questions, unjudged
from penala.evaluation.replies import Report, ask
from penala.evaluation.settings import EvaluationSettings, parse
from penala.evaluation.table import report_text
from penala.tokens.prepared import split_file

SIDES = ("before", "after")


@dataclass(frozen=True, slots=True)
class Rows:
    """What both models are evaluated on. `split` is None when there is neither a test nor a validation row."""

    split: str | None
    file: Path
    number: int
    asked: list[Question]
    unrelated: list[Question]


def compare(
    base: Path, tuned: Path, prepared: Path, out: Path, settings: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Write evaluation.json, replies.jsonl and report.md into `out`; return the figures.

    {"split", "rows", "tokens", "before": {"loss", "perplexity", "accuracy"}, "after": {...}, "groups": [...]}: loss is
    in nats a supervised token, accuracy (where `contains` is set) a share of 1; None where nothing could be measured.
    Raises RecipeError for unknown settings, DataError for columns that are not there; both before a model is loaded.
    """
    chosen = parse(settings)
    rows = _read(prepared, chosen)
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"split": rows.split, "rows": rows.number, "tokens": None}
    replies = {}
    for side, model in zip(SIDES, (base, tuned), strict=True):
        if rows.split is not None:
            report({"event": "note", "text": f"{side} tuning: loss on {rows.number} rows of {rows.split}"})
        figures["tokens"], figures[side] = _loss(model, rows, report)
        replies[side] = ask(model, [*rows.asked, *rows.unrelated], chosen.max_new_tokens, report)
    pairs = list(zip(replies["before"], replies["after"], strict=True))
    answers = [_answer(question, *pair) for question, pair in zip(rows.asked, pairs, strict=False)]
    apart = [_answer(question, *pair) for question, pair in zip(rows.unrelated, pairs[len(answers) :], strict=True)]
    if chosen.contains is not None:
        for side in SIDES:
            figures[side]["accuracy"] = accuracy(answers, side)
        figures["groups"] = by_group(answers)
    _write(out, figures, answers, apart)
    return figures


def accuracy(answers: Sequence[Mapping[str, Any]], side: str) -> float | None:
    """Return the share of the judged replies that are right; None when none is judged."""
    judged = [answer["right"][side] for answer in answers if answer["right"] is not None]
    return sum(judged) / len(judged) if judged else None


def by_group(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return {"name", "rows", "before", "after"} of each group, in the order in which the rows name them."""
    names = dict.fromkeys(name for answer in answers for name in answer["groups"])
    members = {name: [answer for answer in answers if name in answer["groups"]] for name in names}
    return [
        {"name": name, "rows": len(group), **{side: accuracy(group, side) for side in SIDES}}
        for name, group in members.items()
    ]


def _read(prepared: Path, settings: EvaluationSettings) -> Rows:
    unrelated = unjudged(_forgetting(settings.forgetting)) if settings.forgetting else []
    for split in ("test", "validation"):
        file, said = split_file(prepared, split), prepared / "raw_data" / f"{split}.jsonl"
        if said.is_file() and said.stat().st_size > 0:
            conversations = list(read_jsonl(said))
            return Rows(split, file, len(conversations), questions(conversations, settings), unrelated)
    return Rows(None, prepared, 0, [], unrelated)


def _forgetting(path: Path) -> list[Conversation]:
    # not checked as training rows are: a question needs no answer
    fix = 'write one {"messages": [{"role": "user", "content": ...}]} a line'
    try:
        found = list(read_jsonl(path))
    except DataError as error:
        raise DataError(error.what, where=f"evaluation.forgetting: {error.where}", fix=fix) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=f"evaluation.forgetting: {path}") from None
    if not found or not all(conversation.messages for conversation in found):
        raise DataError("holds no question, or an empty one", where=f"evaluation.forgetting: {path}", fix=fix)
    return found


def _loss(model: Path, rows: Rows, report: Report) -> tuple[int | None, dict[str, float | None]]:
    """Return the number of supervised tokens, and their mean loss with its perplexity."""
    if rows.split is None:
        return None, {"loss": None, "perplexity": None}
    from penala.training.loss import loss_of

    found = loss_of(model, rows.file, report)
    if found.tokens == 0:
        return 0, {"loss": None, "perplexity": None}
    loss = found.nats / found.tokens
    return found.tokens, {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else None}


def _answer(question: Question, before: str | None, after: str | None) -> dict[str, Any]:
    right = None
    if question.expected is not None:
        said = {"before": before, "after": after}
        right = {
            side: reply is not None and is_right(reply, question.expected, question.unexpected)
            for side, reply in said.items()
        }
    return {
        "row": question.row,
        "question": question.text,
        "reference": question.reference,
        "before": before,
        "after": after,
        "right": right,
        "groups": list(question.groups),
    }


def _write(out: Path, figures: dict[str, Any], answers: list[dict[str, Any]], apart: list[dict[str, Any]]) -> None:
    evaluation = figures | {
        "judged": sum(answer["right"] is not None for answer in answers),
        "forgetting": [{name: answer[name] for name in ("question", "before", "after")} for answer in apart],
    }
    text = json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n"
    (out / "evaluation.json").write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    (out / "replies.jsonl").write_text(lines, encoding="utf-8")
    (out / "report.md").write_text(report_text(evaluation, answers), encoding="utf-8")
