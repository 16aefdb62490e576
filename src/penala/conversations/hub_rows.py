"""From the files of a hub split to lines of JSON, in pieces that a later start can go on from.

A reader yields pieces: lines, and the place (number of the file, place within it) to go on from after them, or None
where one cannot start. It reads no further than it is asked to, so that what is not wanted is not moved.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from penala.conversations.faults import CODES, Fault
from penala.conversations.files import read_records
from penala.conversations.hub import HubStream
from penala.conversations.hub_splits import RemoteFile, is_packed, kind_of
from penala.conversations.json_text import is_one_value_a_line
from penala.conversations.records import Unreadable
from penala.conversations.schemas import COLUMNS
from penala.conversations.visible import visible
from penala.errors import DataError

LARGE_GROUP_BYTES = 1 << 20  # of a larger row group only the pages that hold wanted rows are read
PAGE_BUFFER_BYTES = 64 << 10
MIN_BLOCK_BYTES = 64 << 10
HEAD_BYTES = 4 << 10  # tell whether a file is what its name says
BLOCK_BYTES = 8 << 20
BATCH_ROWS = 256

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # of UTF-16 and UTF-32, whose line ends are no single bytes

THEIRS = "tell its authors, or take another --revision"

Open = Callable[[RemoteFile], HubStream]


class Place(NamedTuple):
    """Where reading goes on: in which file of the split, and at which row group or byte of it."""

    file: int = 0
    at: int = 0


class Piece(NamedTuple):
    """Some rows, a line of JSON each, and where to go on after them."""

    lines: list[bytes]
    after: Place | None


def how_to_read(files: Sequence[RemoteFile], open_file: Open) -> Literal["parquet", "lines", "whole"]:
    """Return which reader fits the files of a split; raise DataError when none does."""
    kinds = {kind_of(file.path) for file in files}
    packed = any(is_packed(file.path) for file in files)
    if kinds == {".parquet"} and not packed:
        return "parquet"
    if ".parquet" in kinds:
        raise _refused("parquet that is packed, or mixed with other files", files[0])
    if packed or not kinds <= {".jsonl", ".ndjson", ".json"}:
        return "whole"
    under_json = ".json" in kinds
    head = open_file(files[0]).read(MIN_BLOCK_BYTES if under_json else HEAD_BYTES) or b""
    return "whole" if _is_document(head, under_json=under_json) else "lines"


def _is_document(head: bytes, *, under_json: bool) -> bool:
    """Tell whether a file that begins so holds its rows otherwise than one a line; a name does not decide that."""
    lines = [line for line in head.split(b"\n") if line.strip()]
    if len(lines) > 1:
        return head.startswith(_WIDE) or not is_one_value_a_line(*lines[:3])
    return under_json or head.startswith(_WIDE) or head.lstrip().startswith(b"[")


def _refused(what: str, file: RemoteFile) -> DataError:
    return DataError(visible(what), where=visible(file.path), fix=THEIRS)


# --- parquet


def footers(files: Sequence[RemoteFile], open_file: Open) -> list[Any]:
    """Return the metadata of each parquet file, from its end alone."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda file: _footer(file, open_file(file)), files))


def _footer(file: RemoteFile, stream: HubStream) -> Any:
    import pyarrow.parquet

    start = stream.seek(max(file.size - min(max(file.size // 200, 4 << 10), 64 << 10), 0))
    tail = stream.readall()
    needed = int.from_bytes(tail[-8:-4], "little") + 8  # the footer, its length, PAR1
    if needed > len(tail):
        stream.seek(max(file.size - needed, 0))
        tail = stream.read(start - stream.tell()) + tail
    with _readable(file):
        return pyarrow.parquet.read_metadata(BytesIO(b"PAR1" + tail))  # it only looks at the end


def parquet_pieces(
    files: Sequence[RemoteFile], open_file: Open, metadata: Sequence[Any], start: Place, rows: int
) -> Iterator[Piece]:
    """Yield the next `rows` rows from `start` on, a row group at a time."""
    for number in range(start.file, len(files)):
        first = start.at if number == start.file else 0
        for group in range(first, metadata[number].num_row_groups):
            if rows <= 0:
                return
            about = metadata[number].row_group(group)
            wanted = min(rows, about.num_rows)
            rows -= wanted
            is_part = wanted < about.num_rows and about.total_byte_size > LARGE_GROUP_BYTES
            options = {"pre_buffer": False, "buffer_size": PAGE_BUFFER_BYTES} if is_part else {"pre_buffer": True}
            with _readable(files[number]):
                reader = _parquet(open_file(files[number]), metadata=metadata[number], **options)
                for batch in reader.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False):
                    lines = [as_line(row) for row in batch.slice(0, wanted).to_pylist()]
                    wanted -= len(lines)
                    yield Piece(lines, None)
                    if wanted == 0:
                        break
            yield Piece([], Place(number, group + 1))  # a group may be empty


def _parquet(stream: HubStream, **options: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(stream, **options)


@contextmanager
def _readable(file: RemoteFile) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # what cannot be parsed is an OSError to pyarrow
        first = str(error).partition("\n")[0]
        raise _refused(f"is a damaged parquet file: {first}", file) from None


def as_line(row: Any) -> bytes:
    """Return a row as one line of JSON."""
    return msgspec.json.encode(row) + b"\n"


# --- JSON lines


def line_pieces(
    files: Sequence[RemoteFile], open_file: Open, start: Place, *, rows: int | None, size: int
) -> Iterator[Piece]:
    """Yield the next `rows` lines from `start` on; without `rows` those in the first `size` bytes of all files.

    A line across that border belongs to the side that holds more of it. `size` tells how much to fetch at once, too.
    """
    before = sum(file.size for file in files[: start.file])  # bytes of the split before this file
    left = rows
    for number in range(start.file, len(files)):
        file, at = files[number], start.at if number == start.file else 0
        stream, rest = open_file(file), b""
        stream.seek(at)
        while at < file.size:
            fetched = stream.tell()
            wanted = max(size - before - fetched, size // 64, MIN_BLOCK_BYTES)
            block = stream.read(min(wanted, BLOCK_BYTES)) or b""
            is_last = stream.tell() >= file.size
            *whole, rest = (rest + block).split(b"\n")
            if is_last and rest:
                whole, rest = [*whole, rest], b""
            lines: list[bytes] = []
            for line in whole:
                length = len(line) + 1
                if left == 0 or (left is None and before + at + length / 2 > size):
                    yield Piece(lines, Place(number, at))
                    return
                if at == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                at += length
                if line and not line.isspace():
                    lines.append(line.rstrip(b"\r") + b"\n")
                    left = None if left is None else left - 1
            yield Piece(lines, Place(number, at))
        yield Piece([], Place(number + 1))
        before += file.size


# --- files that say only at their end how many rows they hold


def whole_pieces(
    files: Sequence[RemoteFile],
    open_file: Open,
    start: Place,
    spare: Callable[[RemoteFile], Path],
    tell: Callable[[str], None],
) -> Iterator[Piece]:
    """Yield every row of CSV, TSV, packed files and JSON documents, each fetched whole into the file `spare` names.

    Rows that cannot be read are left out and told, with the line of the first.
    """
    for number in range(start.file, len(files)):
        file, copy = files[number], spare(files[number])
        with copy.open("ab") as out:
            _fetch(open_file(file), out)
        lines: list[bytes] = []
        faults: list[str] = []
        try:
            for line, record in read_records(copy, COLUMNS):
                if isinstance(record, Fault):
                    if CODES[record.code].level == "error":
                        faults.append(f"line {line}: {record.message}")
                    continue
                try:
                    row = (
                        msgspec.json.format(record, indent=-1) + b"\n" if isinstance(record, bytes) else as_line(record)
                    )
                    lines.append(row)
                except msgspec.DecodeError as error:
                    faults.append(f"line {line}: {error}")
                if len(lines) == BATCH_ROWS:
                    yield Piece(lines, None)
                    lines = []
        except Unreadable as error:
            raise _refused(error.message, file) from None
        if faults:
            tell(f"{len(faults)} rows of {file.path} cannot be read and are left out, the first: {faults[0]}")
        yield Piece(lines, Place(number + 1))
        copy.unlink()


def _fetch(stream: HubStream, file: IO[bytes]) -> None:
    stream.seek(file.tell())
    while block := stream.read(BLOCK_BYTES):
        file.write(block)
