"""Tables: CSV and TSV with quoted fields, parquet and Arrow. A row becomes a dict of its columns."""

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from penala.conversations.decode import guess_encoding
from penala.conversations.faults import Fault
from penala.conversations.records import Record, Unreadable

SEPARATORS = ",;\t|"
_TOLD_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?\r?\n?')  # a first line for Excel
HEADERLESS = ["prompt", "completion"]  # two columns without names are taken for these
BATCH_ROWS = 256
_OPEN = "a quote is opened and not closed before the end of the file"
_IDENTIFIER = re.compile(r"\s*[A-Za-z_][\w.-]*\s*")
_INDEX_COLUMN = re.compile(r"__index_level_\d+__")  # pandas leaves its index behind under this name


def delimited_records(text: Iterable[str], separator: str, known: frozenset[str]) -> Iterator[Record]:
    """Yield the rows of a CSV or TSV file, whose first line is a header unless it plainly is not one.

    `text` yields physical lines with their ends. `separator` is what the name promises; European spreadsheets write
    semicolons under the name .csv. `known` are the column names that somebody would read.
    """
    lines = iter(text)
    first = next(lines, "")
    told = _TOLD_SEPARATOR.fullmatch(first)
    before = 1 if told else 0  # lines
    if told:
        first = next(lines, "")
    csv.field_size_limit((1 << 31) - 1)  # the default of 128 kB is shorter than a long message
    mark = told[1] if told else _separator(first, separator, known)
    spaced = _is_spaced(first, mark)
    reader = csv.reader(chain([first], lines), delimiter=mark, skipinitialspace=spaced, strict=True)
    header: list[str] | None = None
    while True:
        start = before + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            num_hidden = before + reader.line_num - start
            is_open = "unexpected end" in str(error)
            yield (start, Fault("broken_csv", "", _OPEN if is_open else f"cannot be split into fields: {error}"))
            if is_open and num_hidden:  # no row of theirs is known, so none can be dropped by name
                what = f"the quote that is opened on line {start} hides the {num_hidden:,} lines after it"
                raise Unreadable(what, "close the quote, or double it") from None
            continue
        if not fields or (len(fields) == 1 and not fields[0].strip()):
            continue  # a blank line
        if header is None:
            header = _header(fields, known)
            if header is not None:
                continue
            header = HEADERLESS
            what = f"has no column names: its two columns are read as {' and '.join(HEADERLESS)}"
            yield (start, Fault("no_header", "", what))
        yield (start, _row(fields, header))


def _separator(first_line: str, promised: str, known: frozenset[str]) -> str:
    """Return what splits the first line into the most columns that somebody would read, or else into the most."""
    candidates = [promised, *(mark for mark in SEPARATORS if mark != promised)]

    def columns(mark: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([first_line], delimiter=mark), [])]
        return len(known.intersection(names)), len(names)

    return max(candidates, key=columns)


def _is_spaced(first_line: str, mark: str) -> bool:
    """Tell whether the names of columns are written with a space after each separator: then fields are, too."""
    names = next(csv.reader([first_line], delimiter=mark), [])[1:]
    return bool(names) and all(re.fullmatch(r' "?\w.*', name.rstrip()) for name in names)


def _header(fields: list[str], known: frozenset[str]) -> list[str] | None:
    """Return the column names, or None where the first row is data already. A column without a name is ""."""
    names = [field.strip() for field in fields]
    if not known.intersection(names) and len(names) == 2 and not all(map(_IDENTIFIER.fullmatch, names)):
        return None
    _refuse_doubles([name for name in names if name])
    return names


def _refuse_doubles(names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise Unreadable(f"two columns are named '{doubles[0]}'", "give each column a name of its own")


def _row(fields: list[str], header: list[str]) -> dict[str, Any] | Fault:
    try:
        "".join(fields).encode("utf-8")
    except UnicodeEncodeError:  # undecodable bytes were carried here as surrogates
        data = "".join(fields).encode("utf-8", "surrogateescape")
        return Fault("not_utf8", "", f"bytes that are not UTF-8; {guess_encoding(data)}")
    if len(fields) != len(header):
        count = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
        return Fault("ragged", "", f"has {count}, the header has {len(header)}: {', '.join(header)}")
    if not any(field.strip() for field in fields):
        return Fault("empty", "", "every field is empty")
    for n, (name, field) in enumerate(zip(header, fields, strict=True), 1):
        if n > 1 and not name and field.strip():  # the first may be pandas' index
            return Fault("ragged", "", f"field {n} stands in a column without a name")
    return {name: field for name, field in zip(header, fields, strict=True) if name}


def parquet_records(stream: BinaryIO) -> Iterator[Record]:
    """Yield the rows of a parquet file, a few hundred at a time."""
    import pyarrow.parquet

    with _undamaged("parquet"):
        batches = pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS)
        yield from _batch_rows(batches)


def arrow_records(stream: BinaryIO, *, is_file: bool) -> Iterator[Record]:
    """Yield the rows of an Arrow stream (what datasets.save_to_disk writes) or of an Arrow file."""
    import pyarrow

    with _undamaged("Arrow"):
        if is_file:
            file = pyarrow.ipc.open_file(stream)
            yield from _batch_rows(file.get_batch(i) for i in range(file.num_record_batches))
        else:
            yield from _batch_rows(pyarrow.ipc.open_stream(stream))


@contextlib.contextmanager
def _undamaged(kind: str) -> Iterator[None]:
    """Raise Unreadable for what a damaged file makes of its reader."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system
        what = f"is a damaged {kind} file: {str(error).partition(chr(10))[0].rstrip('.')}"
        raise Unreadable(what, "copy or write it again") from error


def _batch_rows(batches: Iterable[Any]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # offsets that lead astray end the process when they are followed
        names = [name for name in batch.schema.names if not _INDEX_COLUMN.fullmatch(name)]
        _refuse_doubles(names)
        columns = [_values(batch.column(name)) for name in names]
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            number += 1
            yield (number, dict(zip(names, values, strict=True)))


def _values(column: Any) -> list[Any]:
    """Return a column as Python values: maps as objects, times beyond Python's as text."""
    import pyarrow

    try:
        values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    except KeyError:  # a map that has a key twice stays a list of pairs, so that none is lost
        values = column.to_pylist()
    except (ValueError, OverflowError):
        if not pyarrow.types.is_temporal(column.type):
            raise
        values = column.cast(pyarrow.string()).to_pylist()
    return values
