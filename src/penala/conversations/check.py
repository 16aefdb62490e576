"""Check conversations: every row of every file in one pass, every fault with its place and its fix."""

import contextlib
import functools
import json
import shlex
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import msgspec

from penala.conversations import parallel
from penala.conversations.conversation import Conversation, Finding, Level
from penala.conversations.faults import CODES, Fault
from penala.conversations.files import find_files, read_pieces, readable, records_of, require_apart, start_of_lines
from penala.conversations.judge import Contents, Judge, Verdict, Verdicts
from penala.conversations.lines import unix_lines
from penala.conversations.records import Record, Unreadable
from penala.conversations.schemas import COLUMNS, Names, check_names, commonest_schema, renamed, unread_columns
from penala.conversations.seen import Said, Seen
from penala.errors import DataError, counted

MINIMUM_ROWS = 10  # what training needs, as on Azure (contract §1.5)
VOTING_ROWS = 1000  # the schema of a file is that of most of its first rows
SHOWN_LINES = 5
SHOWN_CHARACTERS = 400  # of what a finding quotes: a role may be a whole text that stands in the wrong column
SHOWN_OF_A_CODE = 10  # findings in a summary
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


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
    keys: "array[int]" = field(default_factory=lambda: array("Q"))  # of the good rows: the same for the same words
    unreadable: int = 0  # files and folders that cannot be read at all


@dataclass(slots=True)
class Check:
    """The outcome of a check. rows = good + bad; blank lines are not rows; bad rows have an error."""

    parts: list[Part]
    findings: list[Finding]
    schemas: dict[str, str]  # file -> the schema that it was read in
    rows_again: Callable[..., Iterator[Conversation]]  # reads the good rows anew, in file order, from number `start` on

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
        """The good rows in file order, read anew."""
        return list(self.rows_again())

    @property
    def bad_rows(self) -> dict[str, int]:
        """How many rows are bad by the code of their first error."""
        return dict(sum((part.bad for part in self.parts), Counter[str]()))

    def as_dict(self) -> dict[str, Any]:
        """Return what `penala data check --json` prints: nothing is left out."""
        findings = [finding.as_dict() for finding in self.findings]
        return {"rows": self.rows, "good": self.good, "bad": self.bad, "findings": findings}

    def write_json(self, path: Path) -> None:
        """Write every finding to a file; raise UsageError when that one was checked."""
        require_apart(path, self.schemas)
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        path.write_bytes(text.encode("utf-8", "backslashreplace"))  # a file's name may be of another encoding

    def summary(self, limit: int = 20) -> str:
        """Return the findings as text for a person: errors first, at most `limit` of them, then the counts.

        Of one code a few are shown, so that none hides the others; a file that cannot be read comes first.
        """
        ranked = sorted(self.findings, key=lambda one: (LEVELS.index(one.level), one.code != "unreadable_file"))
        lines: list[str] = []
        shown, left = Counter[str](), Counter[str]()
        for finding in ranked:
            if len(lines) < limit and shown[finding.code] < SHOWN_OF_A_CODE:
                shown[finding.code] += 1
                lines.append(str(finding))
            else:
                left[finding.code] += 1
        if left:
            lines.append(f"... and {left.total()} more: {', '.join(f'{n} {code}' for code, n in left.items())}")
        unreadable = {finding.file for finding in self.findings if finding.code == "unreadable_file"}
        read_as = Counter(schema for file, schema in self.schemas.items() if file not in unreadable)
        lines += [f"{counted(count, 'file')} read as {schema}" for schema, count in read_as.items()]
        lines.append(f"{counted(self.rows, 'row')}, {self.good:,} good, {self.bad:,} bad")
        return "\n".join(lines)


def check(
    paths: Sequence[str | Path] | str | Path,
    *,
    schema: str = "auto",
    columns: Mapping[str, str] | None = None,
    minimum_rows: int = MINIMUM_ROWS,
    each: Callable[[Judged], None] | None = None,
    progress: Callable[[int, float], None] = lambda rows, share: None,
) -> Check:
    """Read every row of every path and say everything that is wrong with it.

    Each path (a file, a folder of shards or a glob) is a split of its own: fewer than `minimum_rows` good rows in one
    are a warning, and so is a row that stands in two. `columns` maps our column names to the files'. No row is kept;
    `each` is called with every row in file order; `progress` is told now and then how many rows are read, and the share
    of the bytes, from 0 to 1, as far as that is known. Raises UsageError for a path that does not exist.
    """
    names = columns or {}
    check_names(schema, names)
    listed = [paths] if isinstance(paths, str | Path) else paths
    found = [(str(path), find_files(path)) for path in listed]
    checker = _Checker(schema, names, each, _Progress(progress, [file for _, (files, _) in found for file in files]))
    for path, (files, said) in found:
        checker.begin(path)
        for place, fault in said:
            checker.say(str(place), None, fault)
            checker.part.unreadable += fault.code == "unreadable_file"
        for file in files:
            checker.read(file)
        if checker.part.good < minimum_rows and not checker.part.unreadable:
            checker.say(
                path, None, Fault("too_few_rows", "", f"has {counted(checker.part.good, 'good row')} of {minimum_rows}")
            )
    if each is None:
        checker.say_repeats()
    again = functools.partial(_good_rows, checker.files, checker.parts)
    schemas = {str(file.path): file.judge.schema for file in checker.files}
    return Check(checker.parts, checker.findings, schemas, again)


class _Mark(NamedTuple):
    """A place to start reading from: the counts before it, and where it lies in the file."""

    good: int
    rows: int
    lines: int
    offset: int


@dataclass(slots=True)
class _File:
    """A file as it was checked: how to read it again."""

    path: Path
    judge: Judge
    known: frozenset[str]  # column names that somebody would read
    good: int = 0
    said: tuple[int, int] = (0, 0)  # [first, last) of the findings about its rows
    sharing: dict[int, int] = field(default_factory=dict)  # good rows, from 0, that share a line -> their numbers
    marks: list[_Mark] = field(default_factory=list)  # in file order, where the file can be read from any line on


def _good_rows(files: Sequence[_File], parts: Sequence[Part], start: int = 0) -> Iterator[Conversation]:
    """Read the good rows of `parts` anew from number `start` on, from 0.

    Raises DataError where they are no longer what they were.
    """
    keys = array("Q", chain.from_iterable(part.keys for part in parts))
    at = 0
    for file in files:
        skipped = min(max(start - at, 0), file.good)
        at += skipped
        if skipped == file.good:
            continue
        for said, conversation in _good_rows_of(file, skipped):
            if at == len(keys) or said[0] != keys[at]:
                raise _changed(f"{file.path}:{conversation.line}", "holds another row than when it was checked")
            at += 1
            yield conversation
    if at < len(keys):
        raise _changed(" ".join(part.path for part in parts), "has fewer good rows than when it was checked")


def _good_rows_of(file: _File, skip: int) -> Iterator[tuple[Said, Conversation]]:
    mark = max((mark for mark in file.marks if mark.good <= skip), default=_Mark(0, 0, 0, 0))
    row, good = mark.rows, mark.good
    try:
        for line, verdict, contents in _rows_of(file, mark):
            row += 1
            if contents is None or verdict.said is None:
                continue
            good += 1
            if good > skip:
                yield verdict.said, Conversation(*contents, str(file.path), line, row)
    except Unreadable:
        pass  # the rows before its damaged end were counted


def _rows_of(file: _File, mark: _Mark) -> Iterator[tuple[int, Verdict, Contents | None]]:
    """Yield the rows of a file from a mark on: the line of each, what is said of it, what it holds."""
    first = mark.lines + 1
    for piece in read_pieces(file.path, file.known, mark.offset):
        if isinstance(piece, bytes):
            rows, num_lines = file.judge.rows(piece)
            yield from ((first + line, verdict, contents) for line, verdict, contents in rows)
            first += num_lines
        elif not isinstance(piece[1], Fault) or CODES[piece[1].code].level != "note":
            yield piece[0], *file.judge.row(piece[1])


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
    files = [part.path for part in checked.parts]
    again = f"`penala data check {shlex.join(files)}`"
    if errors and on_bad_row == "error":
        raise DataError(
            f"{checked.bad} of {checked.rows} rows of {split} are bad, the first: {errors[0]}",
            where=f"{errors[0].file}:{errors[0].line}",
            fix=f"{again} lists them all; on_bad_row: drop leaves them out",
        )
    needed = MINIMUM_ROWS if split == "train" else 1
    if checked.good < needed:
        of_all = f" of {checked.rows}" if checked.bad else ""
        why = f"; {again} says what is wrong with the others" if checked.bad else ""
        what = f"{split} has {counted(checked.good, 'good row')}{of_all}, fewer than {needed}"
        raise DataError(what, where=" ".join(files), fix=f"add rows{why}")


class _Progress:
    """Counts the rows and the bytes that are read; a packed file or a table counts when it is read whole."""

    def __init__(self, tell: Callable[[int, float], None], files: Sequence[Path]) -> None:
        self._tell = tell
        self._all = sum(map(_size, files))
        self._before = self._here = 0  # bytes of the files that are read, and of this one
        self._rows = 0

    def take(self, rows: int, num_bytes: int = 0) -> None:
        """Count what was read."""
        self._rows += rows
        self._here += num_bytes
        self._tell(self._rows, min((self._before + self._here) / max(self._all, 1), 1.0))

    def end(self, file: Path) -> None:
        """Count the whole of a file."""
        self._before, self._here = self._before + _size(file), 0


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


class _Checker:
    """Carries what outlives a file: the findings, the rows seen so far, and the part that is being read."""

    def __init__(self, schema: str, names: Names, each: Callable[[Judged], None] | None, progress: _Progress) -> None:
        self.schema, self.names, self.each, self.progress = schema, names, each, progress
        self.parts: list[Part] = []
        self.files: list[_File] = []
        self.findings: list[Finding] = []
        self.seen = Seen()

    @property
    def part(self) -> Part:
        return self.parts[-1]

    def begin(self, path: str) -> None:
        self.parts.append(Part(path))

    def say(self, file: str, line: int | None, fault: Fault) -> None:
        self.findings.append(_finding(file, line, fault))

    def say_repeats(self) -> None:
        """Say which rows repeat others, in the order of lines."""
        found: dict[int, list[Finding]] = {}
        for number, good, line, fault in self.seen.repeats():
            file = self.files[number]
            found.setdefault(number, []).append(
                _finding(str(file.path), line, _numbered(fault, file.sharing.get(good)))
            )
        for number in reversed(found):
            start, end = self.files[number].said
            said = sorted(self.findings[start:end] + found[number], key=lambda finding: finding.line or 0)
            self.findings[start:end] = said

    def read(self, path: Path) -> None:
        """Read one file; what makes it unreadable is a finding."""
        try:
            # a header is known by any name that somebody would read
            known = COLUMNS | frozenset(self.names.values())
            with readable():
                size = path.stat().st_size
            pieces = read_pieces(path, known)
            first, more = _first(pieces)
            voting = islice(records_of(first), VOTING_ROWS)
            rows = [renamed(row, self.names) for _, data in voting if isinstance(row := _peek(data), dict)]
            schema = commonest_schema(rows) if self.schema == "auto" else self.schema
            judge = Judge(schema, self.names, list(rows[0]) if rows else [], size)
            self.files.append(_File(path, judge, known))
            unread = dict.fromkeys(name for row in rows for name in unread_columns(row, schema))
            if unread:
                what = f"rows are read without {', '.join(map(repr, unread))}, which stands beside what is trained"
                self.say(str(path), None, Fault("unread_columns", "", what))
            reader, start = _FileReader(self, self.files[-1]), len(self.findings)
            try:
                reader.read(first, more)
            finally:
                self.files[-1].said = start, len(self.findings)
            reader.finish()
        except Unreadable as error:
            self.part.unreadable += 1
            self.say(str(path), None, Fault("unreadable_file", "", error.message, error.fix))
        self.progress.end(path)


class _FileReader:
    """Takes what is said of the rows of one file, looks around, and counts."""

    def __init__(self, checker: _Checker, file: _File) -> None:
        self.checker, self.file, self.name = checker, file, str(file.path)
        self.part, self.judge, self.seen = checker.part, file.judge, checker.seen
        self.row = 0
        self.line = 0  # of the last record
        self.lines = 0  # in the blocks before
        self.shares_line = False  # one line holds several rows: the list was not printed over lines
        self.markers: list[int] = []  # lines
        self.unrendered: dict[str, list[int]] = {}  # key -> lines, one a message
        self.strangers: dict[str, list[int]] = {}  # what rows of another schema are told -> lines
        self.seen.begin(len(checker.parts), self.name)

    def read(self, first: list[bytes | Record], more: Iterator[bytes | Record]) -> None:
        """Take every record of the file."""
        are_lines = bool(first) and isinstance(first[0], bytes)
        with readable():
            offset = start_of_lines(self.file.path) if are_lines else None
            pays = are_lines and parallel.pays(self.file.path)
        if self.checker.each is not None or not are_lines:
            for line, data in records_of(chain(first, more)):
                self._take_record(line, data, self.checker.each)
                self.checker.progress.take(1, len(data) + 1 if isinstance(data, bytes) and offset is not None else 0)
            return
        if offset is not None and pays:
            judged = parallel.judged(self.file.path, offset, self.judge)
        else:
            judged = self.judge.blocks(cast(Iterator[bytes], chain(first, more)))
        for verdicts in judged:
            if offset is not None:
                self.file.marks.append(_Mark(self.file.good, self.row, self.lines, offset))
                offset += verdicts.num_bytes
            self._take_block(verdicts)
            rows = len(verdicts.lines) + len(verdicts.others)
            self.checker.progress.take(rows, 0 if offset is None else verdicts.num_bytes)

    def _take_record(
        self, line: int, data: bytes | dict[str, Any] | Fault, each: Callable[[Judged], None] | None
    ) -> None:
        if isinstance(data, Fault) and CODES[data.code].level == "note":
            self.checker.say(self.name, None, data)
            return
        self.shares_line, self.line = line == self.line, line
        said = len(self.checker.findings)
        verdict, contents = self.judge.row(data)
        self._take(line, verdict)
        if each is not None:
            conversation = None if contents is None else Conversation(*contents, self.name, line, self.row)
            each(Judged(self.name, line, self.row, conversation, self.checker.findings[said:], data))

    def _take_block(self, verdicts: Verdicts) -> None:
        first, at = self.lines + 1, 0
        for line, verdict in verdicts.others:
            before = bisect_left(verdicts.lines, line)
            self._take_plain(verdicts, at, before, first)
            self._take(first + line, verdict)
            at = before
        self._take_plain(verdicts, at, len(verdicts.lines), first)
        self.markers += [first + line for line in verdicts.markers]
        self.lines += verdicts.num_lines

    def _take_plain(self, verdicts: Verdicts, start: int, end: int, first: int) -> None:
        """Take plain rows [start, end) of a block, whose first line is `first`."""
        self.row += end - start
        self.part.rows += end - start
        self._count_good(
            [column[start:end] for column in verdicts.said], [first + line for line in verdicts.lines[start:end]]
        )

    def _take(self, line: int, verdict: Verdict) -> None:
        self.row += 1
        self.part.rows += 1
        for fault in verdict.faults:
            self._say(line, fault)
            if fault.code == "other_schema":
                self.strangers.setdefault(fault.message, []).append(line)
        if verdict.said is None:
            self.part.bad[next(fault.code for fault in verdict.faults if CODES[fault.code].level == "error")] += 1
            return
        if self.shares_line:
            self.file.sharing[self.file.good] = self.row
        if self.checker.each is not None:
            for fault in self.seen.look(verdict.said, line):
                self._say(line, fault)
        self._count_good([(part,) for part in verdict.said], (line,))
        if verdict.has_marker:
            self.markers.append(line)
        for key in verdict.unrendered:
            self.unrendered.setdefault(key, []).append(line)

    def _count_good(self, said: Sequence[Sequence[int]], lines: Sequence[int]) -> None:
        if self.checker.each is None:
            self.seen.take(said, lines)
        self.part.keys.extend(said[0])
        self.part.good += len(lines)
        self.file.good += len(lines)

    def _say(self, line: int, fault: Fault) -> None:
        self.checker.say(self.name, line, _numbered(fault, self.row if self.shares_line else None))

    def finish(self) -> None:
        """Say what is counted over the whole file."""
        for message, lines in self.strangers.items():
            if len(lines) > SHOWN_LINES:
                self.checker.say(self.name, None, Fault("mixed_schemas", "", f"each of {_some(lines)} {message}"))
        if self.markers:
            what = f"text that looks like a chat template's markers stands in {_some(sorted(self.markers))}"
            self.checker.say(self.name, None, Fault("template_markers", "", what))
        for key, lines in sorted(self.unrendered.items()):
            rows = sorted(set(lines))
            count = f"{counted(len(lines), 'message')} of {_some(rows)}"
            what = f"most chat templates do not render the key {key!r}, which stands in {count}"
            self.checker.say(self.name, None, Fault("unrendered_keys", key, what))


def _first(pieces: Iterator[bytes | Record]) -> tuple[list[bytes | Record], Iterator[bytes | Record]]:
    """Read the start of a file, which has the rows that vote; return it, and what follows it."""
    first: list[bytes | Record] = []
    rows = 0
    try:
        while rows < VOTING_ROWS and (piece := next(pieces, None)) is not None:
            first.append(piece)
            rows += unix_lines(piece).count(b"\n") if isinstance(piece, bytes) else 1
    except Unreadable as error:  # the rows before it count
        return first, _damaged(error)
    return first, pieces


def _damaged(error: Unreadable) -> Iterator[bytes | Record]:
    raise error
    yield


def _peek(data: bytes | dict[str, Any] | Fault) -> Any:
    """Decode a record without a word, to see its columns."""
    if not isinstance(data, bytes):
        return data
    for decode in (msgspec.json.decode, json.loads):  # the first is faster, the second takes more
        with contextlib.suppress(ValueError, RecursionError):
            return decode(data)
    return None


def _finding(file: str, line: int | None, fault: Fault) -> Finding:
    level, fix = CODES[fault.code]
    path, message = _printable(_short(fault.path)), _printable(_short(fault.message))
    return Finding(file, line, path, level, fault.code, message, fault.fix or fix)


def _numbered(fault: Fault, row: int | None) -> Fault:
    """Name the row where its line does not tell it."""
    return fault if row is None else fault._replace(message=f"row {row} {fault.message}")


def _some(lines: Sequence[int]) -> str:
    more = ", ..." if len(lines) > SHOWN_LINES else ""
    line = "line" if len(lines) == 1 else "lines"
    return f"{counted(len(lines), 'row')} ({line} {', '.join(map(str, lines[:SHOWN_LINES]))}{more})"


def _short(text: str) -> str:
    """Cut the middle out of a long text: how it begins and ends says most."""
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def _printable(text: str) -> str:
    """Escape what a terminal could take for a command, and halves of surrogate pairs: the text came out of the data."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
