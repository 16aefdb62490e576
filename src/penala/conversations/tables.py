"""Tables: CSV and TSV with quoted fields, parquet and Arrow. A row becomes a dict of its columns."""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from penala.conversations.decode import guess_encoding
from penala.conversations.faults import Fault
from penala.conversations.records import Record, Unreadable

SEPARATORS = ",;\t|"
HEADERLESS = ["prompt", "completion"]  # two columns without names are taken for these
BATCH_ROWS = 256
_IDENTIFIER = re.compile(r"\s*[A-Za-z_][\w.-]*\s*")
_INDEX_COLUMN = re.compile(r"__index_level_\d+__")  # pandas leaves its index behind under this name


def delimited_records(text: Iterable[str], separator: str, known: frozenset[str]) -> Iterator[Record]:
    """Yield the rows of a CSV or TSV file, whose first line is a header unless it plainly is not one.

    `text` yields physical lines with their ends. `separator` is what the name promises; European spreadsheets write
    semicolons under the name .csv. `known` are the column names that somebody would read.
    """
    lines = iter(text)
    first = next(lines, "")
    csv.field_size_limit((1 << 31) - 1)  # the default of 128 kB is shorter than a long message
    reader = csv.reader(chain([first], lines), delimiter=_separator(first, separator), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield (start, Fault("broken_csv", "", f"cannot be split into fields: {error}"))
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


def _separator(first_line: str, promised: str) -> str:
    candidates = [promised, *(mark for mark in SEPARATORS if mark != promised)]
    return max(candidates, key=lambda mark: len(next(csv.reader([first_line], delimiter=mark), [])))


def _header(fields: list[str], known: frozenset[str]) -> list[str] | None:
    """Return the column names, or None where the first row is data already."""
    names = [field.strip() for field in fields]
    if not known.intersection(names) and len(names) == 2 and not all(map(_IDENTIFIER.fullmatch, names)):
        return None
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise Unreadable(f"two columns are named '{doubles[0]}'", "give each column a name of its own")
    return names


def _row(fields: list[str], header: list[str]) -> dict[str, Any] | Fault:
    try:
        "".join(fields).encode("utf-8")
    except UnicodeEncodeError:  # undecodable bytes were carried here as surrogates
        data = "".join(fields).encode("utf-8", "surrogateescape")
        return Fault("not_utf8", "", f"bytes that are not UTF-8; {guess_encoding(data)}")
    if len(fields) != len(header):
        return Fault("ragged", "", f"has {len(fields)} fields, the header has {len(header)}: {', '.join(header)}")
    if not any(field.strip() for field in fields):
        return Fault("empty", "", "every field is empty")
    return dict(zip(header, fields, strict=True))


def parquet_records(stream: BinaryIO) -> Iterator[Record]:
    """Yield the rows of a parquet file, a few hundred at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS)
        yield from _batch_rows(batches)
    except pyarrow.ArrowException as error:
        raise Unreadable(f"is a damaged parquet file: {_first_line(error)}", "copy or write it again") from error


def arrow_records(stream: BinaryIO, *, is_file: bool) -> Iterator[Record]:
    """Yield the rows of an Arrow stream (what datasets.save_to_disk writes) or of an Arrow file."""
    import pyarrow

    try:
        if is_file:
            file = pyarrow.ipc.open_file(stream)
            yield from _batch_rows(file.get_batch(i) for i in range(file.num_record_batches))
        else:
            yield from _batch_rows(pyarrow.ipc.open_stream(stream))
    except pyarrow.ArrowException as error:
        raise Unreadable(f"is a damaged Arrow file: {_first_line(error)}", "copy or write it again") from error


def _batch_rows(batches: Iterable[Any]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield (number, {key: value for key, value in row.items() if not _INDEX_COLUMN.fullmatch(key)})


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
