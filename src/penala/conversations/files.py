"""From a path to records: which files it means, what each file is, and its bytes in whatever encoding."""

import codecs
import contextlib
import functools
import glob
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from penala.conversations import mltable
from penala.conversations.json_text import is_blank, json_pieces, line_blocks, unix_lines
from penala.conversations.records import Record, Unreadable
from penala.conversations.tables import arrow_records, delimited_records, parquet_records
from penala.errors import UsageError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt")
TABLE_SUFFIXES = (".csv", ".tsv")
ARROW_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES + ARROW_SUFFIXES
DATA_FILES = f"data files end in {', '.join(SUFFIXES)} (or .gz)"
# written beside the shards by datasets.save_to_disk and by hub downloads; they are about the data
ABOUT_DATA = {"dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json"}
BLOCK_BYTES = 1 << 16  # malloc gives and takes larger ones page by page
_HEAD_BYTES = 64
_GZIP = b"\x1f\x8b"
_MARKS = (  # longer marks first: UTF-32's starts like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


class Found(NamedTuple):
    """The data files that a path means, and the files of its folder that were passed over."""

    files: list[Path]
    skipped: list[Path]


def find_files(path: str | Path) -> Found:
    """Return the files that a file, a folder of shards, an MLTable or a glob means; raise UsageError for none."""
    text, here = str(path), Path(path)
    if (here / mltable.FILE).is_file():
        return Found(mltable.mltable_files(here), [])
    if here.is_dir():
        return _shards(here)
    if here.exists():
        return Found([here], [])
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True)) if Path(match).is_file()]
    if not matches:
        raise UsageError("no such file or folder", where=text, fix="check the path")
    return Found(matches, [])


def _shards(folder: Path) -> Found:
    files: list[Path] = []
    skipped: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.name not in ABOUT_DATA:
            (files if _suffix(path) in SUFFIXES else skipped).append(path)
    if not files:
        raise UsageError("the folder holds no data file", where=str(folder), fix=DATA_FILES)
    return Found(files, skipped)


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def read_records(path: Path, known_columns: frozenset[str]) -> Iterator[Record]:
    """Yield the records of one file; raise Unreadable when it cannot be read at all."""
    return records_of(read_pieces(path, known_columns))


def records_of(pieces: Iterable[bytes | Record], line: int = 1) -> Iterator[Record]:
    """Yield the records of what `read_pieces` yields; the first line has the number `line`."""
    for piece in pieces:
        if isinstance(piece, bytes):
            lines = unix_lines(piece).split(b"\n")
            yield from ((number, text) for number, text in enumerate(lines, line) if not is_blank(text))
            line += len(lines) - 1
        else:
            yield piece


def read_pieces(path: Path, known_columns: frozenset[str], offset: int = 0) -> Iterator[bytes | Record]:
    """Yield the blocks of whole lines (UTF-8) of a file that has a row of JSON a line, or the records of any other.

    What a file is, its first bytes say; its name tells apart only what they do not. `known_columns` tell the header
    of a table from its first row. An `offset` is where a line starts in a file for which `start_of_lines` is not None.
    Raises Unreadable when the file cannot be read at all.
    """
    with readable(), _opened(path) as stream:
        if offset:
            stream.seek(offset)
            yield from line_blocks(_read(stream))
        else:
            yield from _pieces(stream, _suffix(path), known_columns)


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raise Unreadable for what can happen while a file is read."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Unreadable("is a damaged gzip file; was it cut short?", "copy or download it again") from error
    except UnicodeError as error:
        raise Unreadable(f"cannot be decoded: {error}", "save the file as UTF-8") from error
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check the file and its permissions") from error


def start_of_lines(path: Path) -> int | None:
    """Return where the lines of a file of UTF-8 start, which is one that can be read from any line on; else None."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(_GZIP):
        return None
    return {"utf-8": 0, "utf-8-sig": len(codecs.BOM_UTF8)}.get(_encoding(head))


def _pieces(stream: BinaryIO, suffix: str, known_columns: frozenset[str]) -> Iterator[bytes | Record]:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    if head.startswith(b"PAR1"):
        return parquet_records(stream)
    if head.startswith(b"ARROW1") or (head.startswith(b"\xff\xff\xff\xff") and suffix == ".arrow"):
        return arrow_records(stream, is_file=head.startswith(b"ARROW1"))
    if head.startswith(b"PK\x03\x04"):
        raise Unreadable("is a zip archive or an Excel workbook", "unpack it, or save it as CSV in UTF-8")
    if suffix in ARROW_SUFFIXES:
        raise Unreadable(f"is no {suffix[1:]} file: it starts with {head[:12]!r}", "give it the suffix of what it is")
    if suffix not in SUFFIXES:
        raise Unreadable(f"the suffix '{suffix}' is not one that we read", DATA_FILES)
    encoding = _encoding(head)
    if suffix in TABLE_SUFFIXES:
        return _table(stream, encoding, "\t" if suffix == ".tsv" else ",", known_columns)
    return json_pieces(functools.partial(_utf8_blocks, stream, encoding))


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as raw:
        is_packed = raw.read(len(_GZIP)) == _GZIP
    if not is_packed:
        return path.open("rb")
    with gzip.open(path) as packed:
        while packed.read(BLOCK_BYTES):  # the checksum stands at the end: no row is trusted before
            pass
    return cast(BinaryIO, gzip.open(path))


def _table(stream: BinaryIO, encoding: str, separator: str, known_columns: frozenset[str]) -> Iterator[Record]:
    # bytes that cannot be decoded travel as surrogates to the row that holds them
    with io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="") as text:
        yield from delimited_records(text, separator, known_columns)


def _encoding(head: bytes) -> str:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head[:2]:
        raise Unreadable("looks like UTF-16 without its mark", "save the file as UTF-8")
    return "utf-8"


def _utf8_blocks(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the file from its start in blocks of UTF-8. UTF-8 goes through untouched: its faults belong to lines."""
    stream.seek(len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
    if encoding.startswith("utf-8"):
        yield from _read(stream)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    for block in _read(stream):
        yield decoder.decode(block).encode("utf-8")
    decoder.decode(b"", final=True)


def _read(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block
