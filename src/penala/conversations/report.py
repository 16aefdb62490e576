"""What a data set is like, in figures: everything that `penala data report` says, gathered while the rows go by.

Nothing is kept of a row but numbers, a signature for near duplicates, and the few that stand out.
"""

import shlex
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from penala.conversations import near
from penala.conversations.check import LEVELS, Check, Judged
from penala.conversations.conversation import Conversation, Finding
from penala.conversations.histogram import bins, percentiles
from penala.conversations.notable import Largest, Notable

PLACES = 3  # shown of each finding
LONGEST, ODD = 5, 3  # rows shown by each measure
REPETITIVE_TRIPLES = 50  # a shorter row cannot be called repetitive
SAME_ROW = {"duplicate", "in_two_splits"}


class Collector:
    """Takes the rows of a check one by one (`check(..., each=collector.take)`) and gives the figures at the end."""

    def __init__(self) -> None:
        self.near = near.NearDuplicates()
        self.rows = 0  # good and bad
        self.characters: array[int] = array("q")  # one a good row
        self._files: dict[str, list[int]] = {}  # good and bad rows
        self._sizes: Counter[int] = Counter()
        self._roles: dict[str, list[int]] = {}  # rows that have it, messages, characters
        self._longest, self._fullest, self._odd = Largest(LONGEST), Largest(ODD), (Largest(ODD), Largest(ODD))

    def take(self, judged: Judged) -> None:
        """Count one row, good or bad."""
        self.rows += 1
        counts = self._files.setdefault(judged.file, [0, 0])
        counts[judged.conversation is None] += 1
        if judged.conversation is not None:
            is_copy = any(finding.code in SAME_ROW for finding in judged.findings)
            self._count(judged.conversation, is_copy)

    def _count(self, conversation: Conversation, is_copy: bool) -> None:
        messages = conversation.messages
        length = sum(len(message.content) for message in messages)
        self.characters.append(length)
        self._sizes[len(messages)] += 1
        for role in dict.fromkeys(message.role for message in messages):
            self._roles.setdefault(role, [0, 0, 0])[0] += 1
        for message in messages:
            counts = self._roles[message.role]
            counts[1] += 1
            counts[2] += len(message.content)
        self._longest.offer(length, f"longest: {length:,} characters", conversation)
        if len(messages) > 2:
            self._fullest.offer(len(messages), f"{len(messages):,} messages", conversation)
        said = sum(len(message.content) for message in messages if message.role == "assistant")
        self._odd[0].offer(
            -said, f"the assistant's text is short: {said:,} {'character' if said == 1 else 'characters'}", conversation
        )
        triples = near.triples_of("\n".join(message.content for message in messages))
        if len(triples) >= REPETITIVE_TRIPLES and (share := 1 - len(set(triples)) / len(triples)) >= 0.5:
            self._odd[1].offer(share, f"repeats itself: {share:.0%} of its word triples", conversation)
        if not is_copy:
            self.near.take(f"{conversation.file}:{conversation.line}", triples)

    def figures(self, checked: Check, model: Mapping[str, Any] | None, epochs: int, again: str) -> dict[str, Any]:
        """Return the report as plain JSON types.

        `model` is what penala.tokens.measure says of these rows; `again` holds the options that read the files the same
        way again.
        """
        lengths = length_figures("characters", self.characters, {}) if model is None else model["lengths"]
        notable = self._longest.rows if model is None else model["notable"]
        rows = [*notable, *self._fullest.rows, *self._odd[0].rows, *self._odd[1].rows]
        return {
            "rows": checked.rows,
            "good": checked.good,
            "bad": checked.bad,
            "paths": [
                {"path": part.path, "rows": part.rows, "good": part.good, "bad": part.rows - part.good}
                for part in checked.parts
            ],
            "files": [
                {"file": file, "schema": schema, "rows": sum(self._of(file)), "good": self._of(file)[0]}
                for file, schema in checked.schemas.items()
            ],
            "findings": findings_by_code(checked.findings),
            "messages_a_row": [{"messages": size, "rows": rows} for size, rows in sorted(self._sizes.items())],
            "roles": [
                {"role": role, "rows": counts[0], "messages": counts[1], "characters": counts[2]}
                for role, counts in sorted(self._roles.items())
            ],
            "lengths": lengths,
            "duplicates": self._duplicates(checked.findings),
            "model": None if model is None else _without(model, "lengths", "notable"),
            "cost": _cost(lengths, model, epochs),
            "notable": [
                row.as_dict() | commands(row, again, model["name"] if model is not None else "MODEL")
                for row in _one_a_row(rows)
            ],
        }

    def _duplicates(self, findings: Sequence[Finding]) -> dict[str, Any]:
        self.near.finish()
        repeated = Counter(finding.code for finding in findings if finding.code in SAME_ROW)
        return {
            "exact": repeated["duplicate"],
            "in_two_splits": repeated["in_two_splits"],
            "near": {
                "rows": self.near.rows,
                "pairs": [{"place": place, "near": other} for place, other in self.near.pairs],
                "looked_at": self.near.looked_at,
                "left_out": self.near.left_out,
                "similar": near.SIMILAR,
                "characters": near.CHARACTERS,
            },
        }

    def _of(self, file: str) -> list[int]:
        return self._files.get(file, [0, 0])


def length_figures(unit: str, lengths: "array[int]", limits: Mapping[str, int]) -> dict[str, Any]:
    """Return percentiles, total and bins of lengths, and the limits that they are compared with."""
    ordered = array("q", sorted(lengths))
    return {
        "unit": unit,
        **percentiles(ordered),
        "total": sum(ordered),
        "limits": dict(limits),
        "bins": bins(ordered),
    }


def findings_by_code(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return each kind of finding with its count, its first places and the first message; errors first."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    ranked = sorted(by_code.values(), key=lambda found: (LEVELS.index(found[0].level), -len(found)))
    return [
        {
            "code": found[0].code,
            "level": found[0].level,
            "count": len(found),
            "places": [one.file if one.line is None else f"{one.file}:{one.line}" for one in found[:PLACES]],
            "message": f"{found[0].path}: {found[0].message}" if found[0].path else found[0].message,
            "fix": found[0].fix,
        }
        for found in ranked
    ]


def commands(row: Notable, again: str, model: str) -> dict[str, str]:
    """Return the commands that show a row, and its tokens."""
    options = f"{shlex.quote(row.file)} --row {row.row}{again}"
    return {
        "show": f"penala data show {options}",
        "tokens": f"penala data tokens {options} --model {shlex.quote(model)}",
    }


def _without(figures: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in names}


def _cost(lengths: Mapping[str, Any], model: Mapping[str, Any] | None, epochs: int) -> dict[str, Any]:
    """Return what goes through the model: the whole rows that are trained, once an epoch."""
    an_epoch = lengths["total"] if model is None else model["trained_tokens"]
    return {"unit": lengths["unit"], "an_epoch": an_epoch, "epochs": epochs, "total": an_epoch * epochs}


def _one_a_row(rows: Sequence[Notable]) -> list[Notable]:
    """Join what is said of the same row."""
    joined: dict[tuple[str, int], list[Notable]] = {}
    for row in rows:
        joined.setdefault((row.file, row.row), []).append(row)
    return [
        Notable("; ".join(one.why for one in found), *(getattr(found[0], name) for name in Notable.__slots__[1:]))
        for found in joined.values()
    ]
