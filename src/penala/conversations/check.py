"""Check conversations: every row of every file in one pass, every fault with its place and its fix."""

import functools
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from penala.conversations import parallel
from penala.conversations.conversation import NOTHING, Conversation, Finding, Level, Message
from penala.conversations.decode import decode_row
from penala.conversations.faults import CODES, Fault
from penala.conversations.files import find_files, read_records
from penala.conversations.plain import PlainReader, PlainRow, Proof
from penala.conversations.records import Record, Unreadable
from penala.conversations.rules import faults_of, has_marker
from penala.conversations.schemas import (
    COLUMNS,
    Names,
    Row,
    check_names,
    commonest_schema,
    read_row,
    renamed,
)
from penala.conversations.seen import Said, Seen, row_key
from penala.errors import DataError

MINIMUM_ROWS = 10  # what training needs, as on Azure (contract §1.5)
VOTING_ROWS = 1000  # the schema of a file is that of most of its first rows
SHOWN_LINES = 5
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
# message keys that templates or training read
RENDERED_KEYS = {"tool_calls", "tool_call_id", "weight"}


@dataclass(frozen=True, slots=True)
class Judged:
    """One row as the check left it: its conversation (None: the row is bad), what was said of it, what was read."""

    file: str
    line: int
    row: int
    conversation: Conversation | None
    findings: Sequence[Finding]
    record: bytes | dict[str, Any] | Fault


@dataclass(slots=True)
class Part:
    """What came out of one path: its rows, and why the bad ones are bad (the code of each row's first error)."""

    path: str
    rows: int = 0
    good: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    conversations: list[Conversation] = field(default_factory=list)
    keys: "array[int]" = field(default_factory=lambda: array("q"))  # of the good rows: the same for the same words
    unreadable: int = 0  # files that cannot be read at all


@dataclass(slots=True)
class Check:
    """The outcome of a check. rows = good + bad; blank lines are not rows; bad rows have an error."""

    parts: list[Part]
    findings: list[Finding]
    schemas: dict[str, str]  # file -> the schema that it was read in
    rows_again: Callable[[], Iterator[Conversation]]  # reads the good rows anew, in file order

    @property
    def rows(self) -> int:
        """Every record that is no blank line."""
        return sum(part.rows for part in self.parts)

    @property
    def good(self) -> int:
        """Rows without an error."""
        return sum(part.good for part in self.parts)

    @property
    def bad(self) -> int:
        """Rows with an error."""
        return self.rows - self.good

    @property
    def conversations(self) -> list[Conversation]:
        """The good rows in file order (none when the check was told not to keep them)."""
        return [conversation for part in self.parts for conversation in part.conversations]

    @property
    def bad_rows(self) -> dict[str, int]:
        """How many rows are bad by the code of their first error."""
        return dict(sum((part.bad for part in self.parts), Counter[str]()))

    def as_dict(self) -> dict[str, Any]:
        """Return what `penala data check --json` prints: nothing is left out."""
        findings = [finding.as_dict() for finding in self.findings]
        return {"rows": self.rows, "good": self.good, "bad": self.bad, "findings": findings}

    def write_json(self, path: Path) -> None:
        """Write every finding to a file."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        path.write_bytes(text.encode("utf-8", "backslashreplace"))  # a file's name may be of another encoding

    def summary(self, limit: int = 20) -> str:
        """Return the findings as text for a person: errors first, at most `limit` of them, then the counts."""
        ranked = sorted(self.findings, key=lambda finding: LEVELS.index(finding.level))  # stable: file order within
        lines = [str(finding) for finding in ranked[:limit]]
        if len(ranked) > limit:
            left = Counter(finding.code for finding in ranked[limit:])
            lines.append(f"... and {len(ranked) - limit} more: {', '.join(f'{n} {code}' for code, n in left.items())}")
        read_as = Counter(self.schemas.values())
        lines += [f"{_count(count, 'file')} read as {schema}" for schema, count in read_as.items()]
        lines.append(f"{self.rows} rows, {self.good} good, {self.bad} bad")
        return "\n".join(lines)


def check(
    paths: Sequence[str | Path] | str | Path,
    *,
    schema: str = "auto",
    columns: Mapping[str, str] | None = None,
    minimum_rows: int = MINIMUM_ROWS,
    keep: bool = True,
    each: Callable[[Judged], None] | None = None,
) -> Check:
    """Read every row of every path and say everything that is wrong with it.

    Each path (a file, a folder of shards or a glob) is a split of its own: fewer than `minimum_rows` good rows in one
    are a warning, and so is a row that stands in two. `columns` maps our column names to the files'. With `keep` false
    the rows are let go once checked, so that memory stays flat; `each` is called with every row in file order. Raises
    UsageError for a path that does not exist.
    """
    names = columns or {}
    check_names(schema, names)
    listed = [paths] if isinstance(paths, str | Path) else paths
    found = [(str(path), find_files(path)) for path in listed]
    checker = _Checker(schema, names, keep, each)
    for path, (files, skipped) in found:
        checker.begin(path)
        for file in skipped:
            checker.say(str(file), None, Fault("skipped_file", "", "is not a data file"))
        for file in files:
            checker.part.conversations.extend(checker.rows_of(file))
        if checker.part.good < minimum_rows and not checker.part.unreadable:
            checker.say(path, None, Fault("too_few_rows", "", f"has {checker.part.good} good rows of {minimum_rows}"))
    files = [file for _, (files, _) in found for file in files]
    again = functools.partial(_good_rows, files, checker.parts, schema, names)
    return Check(checker.parts, checker.findings, checker.schemas, again)


def _good_rows(files: Sequence[Path], parts: Sequence[Part], schema: str, names: Names) -> Iterator[Conversation]:
    """Read the good rows of `parts` anew. Raises DataError where they are no longer what they were."""
    expected = chain.from_iterable(part.keys for part in parts)
    checker = _Checker(schema, names, True, None)
    checker.seen = None  # what is repeated has been said
    checker.begin("")
    for file in files:
        for conversation in checker.rows_of(file):
            if checker.part.keys[-1] != next(expected, None):
                raise _changed(f"{file}:{conversation.line}", "holds another row than when it was checked")
            yield conversation
    if next(expected, None) is not None:
        raise _changed(" ".join(part.path for part in parts), "has fewer good rows than when it was checked")


def _changed(where: str, what: str) -> DataError:
    return DataError(what, where=where, fix="let nothing write to the file, and run the same again")


def require(checked: Check, *, split: Literal["train", "validation", "test"], on_bad_row: str = "error") -> None:
    """Raise DataError when the rows of a split cannot be used: an unreadable file, bad rows unless they may be dropped,
    too few rows to train on, or none at all.
    """
    errors = [finding for finding in checked.findings if finding.level == "error"]
    unreadable = [finding for finding in errors if finding.line is None]
    if unreadable:
        raise DataError(unreadable[0].message, where=unreadable[0].file, fix=unreadable[0].fix)
    files = " ".join(part.path for part in checked.parts)
    if errors and on_bad_row == "error":
        raise DataError(
            f"{checked.bad} of {checked.rows} rows of {split} are bad, the first: {errors[0]}",
            where=f"{errors[0].file}:{errors[0].line}",
            fix=f"`penala data check {files}` lists them all; on_bad_row: drop leaves them out",
        )
    needed = MINIMUM_ROWS if split == "train" else 1
    if checked.good < needed:
        raise DataError(f"{split} has {checked.good} good rows, fewer than {needed}", where=files, fix="add rows")


class _Checker:
    """Carries what outlives a file: the findings, the rows seen so far, and the part that is being read."""

    def __init__(self, schema: str, names: Names, keep: bool, each: Callable[[Judged], None] | None) -> None:
        self.schema, self.names, self.keep, self.each = schema, names, keep, each
        self.parts: list[Part] = []
        self.findings: list[Finding] = []
        self.schemas: dict[str, str] = {}
        self.seen: Seen | None = Seen()
        # a header is known by any name that somebody would read
        self.known = COLUMNS | frozenset(names.values())

    @property
    def part(self) -> Part:
        return self.parts[-1]

    def begin(self, path: str) -> None:
        self.parts.append(Part(path))

    def say(self, file: str, line: int | None, fault: Fault) -> None:
        level, fix = CODES[fault.code]
        path, message = _printable(fault.path), _printable(fault.message)
        self.findings.append(Finding(file, line, path, level, fault.code, message, fault.fix or fix))

    def rows_of(self, path: Path) -> Iterator[Conversation]:
        """Read one file, and yield its good rows where they are kept; what makes it unreadable is a finding."""
        try:
            records = read_records(path, self.known)
            first = list(islice(records, VOTING_ROWS))
            reader = _FileReader(self, str(path), first)
            for (line, data), proof in reader.proved(chain(first, records), path):
                conversation = reader.take(line, data, proof)
                if self.keep and conversation is not None:
                    yield conversation
            reader.finish()
        except Unreadable as error:
            self.part.unreadable += 1
            self.say(str(path), None, Fault("unreadable_file", "", error.message, error.fix))


class _FileReader:
    """Takes the records of one file, in the schema that most of its first records have."""

    def __init__(self, checker: _Checker, file: str, first: Sequence[Record]) -> None:
        self.checker, self.file = checker, file
        self.names, self.part, self.each = checker.names, checker.part, checker.each
        self.is_wanted = checker.keep or self.each is not None
        rows = [renamed(row, self.names) for _, data in first if isinstance(row := _peek(data), dict)]
        self.schema = commonest_schema(rows) if checker.schema == "auto" else checker.schema
        checker.schemas[file] = self.schema
        is_plain = self.schema == "messages" and not self.names
        self.columns = list(rows[0]) if rows else []
        self.is_lines = any(isinstance(data, bytes) for _, data in first)
        self.plain = PlainReader(self.columns) if is_plain else None
        self.row = self.line = 0
        self.markers: list[int] = []  # lines
        self.unrendered: dict[str, list[int]] = {}  # key -> lines, one a message

    def proved(self, records: Iterator[Record], path: Path) -> Iterator[tuple[Record, Proof | None]]:
        """Yield the records, with proofs that they are plain where other processes can make them."""
        if not self.is_lines or self.plain is None or self.is_wanted or not parallel.pays(path):
            return ((record, None) for record in records)
        return parallel.proved(records, self.columns)

    def take(self, line: int, data: bytes | dict[str, Any] | Fault, proof: Proof | None) -> Conversation | None:
        """Take one record; return the row when it is good, and somebody wants it."""
        if isinstance(data, Fault) and CODES[data.code].level == "note":
            self.checker.say(self.file, None, data)
            return None
        self.row += 1
        self.part.rows += 1
        self.shares_line = line == self.line  # one line holds several rows: the list was not printed over lines
        self.line = line
        said = len(self.checker.findings)
        if proof is not None:
            self._look_around(line, proof)
            conversation = None  # nobody wants it
        elif self.plain is not None and isinstance(data, bytes) and (row := self.plain.read(data)) is not None:
            conversation = self._take_plain(line, self.plain, row)
        else:
            conversation = self._take_with_care(line, data)
        if self.each is not None:
            self.each(Judged(self.file, line, self.row, conversation, self.checker.findings[said:], data))
        return conversation

    def _take_plain(self, line: int, reader: PlainReader, row: PlainRow) -> Conversation | None:
        self._look_around(line, row.proof())
        if not self.is_wanted:
            return None
        messages = tuple([Message(role, text, NOTHING) for role, text in zip(row.roles, row.texts, strict=True)])
        columns = reader.columns_of(row) or NOTHING
        return Conversation(messages, None, columns, self.file, line, self.row)

    def _take_with_care(self, line: int, data: bytes | dict[str, Any] | Fault) -> Conversation | None:
        row, faults = self._read(data)
        for fault in faults:
            self._say(fault)
        errors = [fault.code for fault in faults if CODES[fault.code].level == "error"]
        if errors or row is None:
            self.part.bad[errors[0]] += 1
            return None
        joined = "\0".join(turn.content or "" for turn in row.turns)
        written = tuple(turn.written for turn in row.turns)
        extra = [turn.extra for turn in row.turns]
        more = json.dumps([extra, row.tools], sort_keys=True, default=str) if any(extra) or row.tools else ""
        said = Said.of(row_key(written, joined, more), row.columns.get("prompt"), row.columns.get("prompt_id"))
        self._look_around(line, Proof(said, has_marker(joined)))
        self._note_keys(line, row)
        if not self.is_wanted:
            return None
        messages = tuple(Message(turn.role or "", turn.content or "", turn.extra or NOTHING) for turn in row.turns)
        return Conversation(messages, row.tools, row.columns or NOTHING, self.file, line, self.row)

    def _read(self, data: bytes | dict[str, Any] | Fault) -> tuple[Row | None, list[Fault]]:
        if isinstance(data, Fault):
            return None, [data]
        value, faults = decode_row(data) if isinstance(data, bytes) else (data, [])
        if not isinstance(value, dict):
            return None, faults or [Fault("not_an_object", "", f"is {_kind(value)}, not an object")]
        row = read_row(renamed(value, self.names), self.schema, self.names, faults)
        if row is not None:
            faults.extend(faults_of(row))
        return row, faults

    def _look_around(self, line: int, proof: Proof) -> None:
        self.part.good += 1
        self.part.keys.append(proof.said.key)
        if (seen := self.checker.seen) is not None:
            for fault in seen.look(proof.said, (len(self.checker.parts), self.file, line)):
                self._say(fault)
        if proof.has_marker:
            self.markers.append(line)

    def _say(self, fault: Fault) -> None:
        row = f"row {self.row} " if self.shares_line else ""
        self.checker.say(self.file, self.line, fault._replace(message=row + fault.message))

    def _note_keys(self, line: int, row: Row) -> None:
        for turn in row.turns:
            for key in turn.extra.keys() - RENDERED_KEYS:
                if key != "name" or turn.role != "tool":
                    self.unrendered.setdefault(key, []).append(line)

    def finish(self) -> None:
        """Say what is counted over the whole file."""
        if self.markers:
            what = f"text that looks like a chat template's markers stands in {_some(self.markers)}"
            self.checker.say(self.file, None, Fault("template_markers", "", what))
        for key, lines in sorted(self.unrendered.items()):
            rows = sorted(set(lines))
            count = f"{_count(len(lines), 'message')} of {_some(rows)}"
            what = f"chat templates do not render the key {key!r}, which stands in {count}"
            self.checker.say(self.file, None, Fault("unrendered_keys", key, what))


def _peek(data: bytes | dict[str, Any] | Fault) -> Any:
    """Decode a record without a word, to see its columns."""
    if not isinstance(data, bytes):
        return data
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _some(lines: Sequence[int]) -> str:
    more = ", ..." if len(lines) > SHOWN_LINES else ""
    line = "line" if len(lines) == 1 else "lines"
    return f"{_count(len(lines), 'row')} ({line} {', '.join(map(str, lines[:SHOWN_LINES]))}{more})"


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _printable(text: str) -> str:
    """Escape what a terminal could take for a command, and halves of surrogate pairs: the text came out of the data."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
