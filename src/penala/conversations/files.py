"""From a path to records: which files it means, what each file is, and its bytes in whatever encoding."""

import codecs
import contextlib
import functools
import glob
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from penala.conversations import mltable
from penala.conversations.faults import Fault
from penala.conversations.json_text import json_pieces
from penala.conversations.lines import line_blocks, numbered_lines, read_lines, unix_lines
from penala.conversations.records import Record, Unreadable
from penala.conversations.shards import (
    ARROW_SUFFIXES,
    DATA_FILES,
    SUFFIXES,
    TABLE_SUFFIXES,
    Found,
    shards,
    splits_of,
    suffix_of,
)
from penala.conversations.tables import arrow_records, delimited_records, parquet_records
from penala.errors import UsageError

BLOCK_BYTES = 1 << 18  # large beside what a block costs, small beside the cache of a core
_KEPT_BYTES = 16 << 20
_HEAD_BYTES = 64
_JSON_START = re.compile(r'\[\s*(\{|$)|\{\s*("|$)')  # of a first line that is no list of columns
_LINE_BYTES = 1 << 12  # of a line of column names
_GZIP = b"\x1f\x8b"
_LFS = b"version https://git-lfs.github.com/"
_OTHERS = (  # what such a file is, and how to make one of it that we read
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save it as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document", "save it as CSV in UTF-8"),
    (b"%PDF", "a PDF document", "write its conversations as JSON lines"),
    (b"\x89PNG", "a picture", "write its conversations as JSON lines"),
    (b"\xff\xd8\xff", "a picture", "write its conversations as JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "export its rows as JSON lines"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it, or pack it with gzip"),
    (b"BZh", "packed with bzip2", "unpack it, or pack it with gzip"),
    (_GZIP, "packed with gzip twice", "unpack it once"),
    (_LFS, "a pointer of Git LFS: the data itself was not fetched", "run `git lfs pull`"),
)
_MARKS = (  # longer marks first: UTF-32's starts like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def find_files(path: str | Path) -> Found:
    """Return the files that a file, a folder of shards, an MLTable or a glob means; raise UsageError for none."""
    text, here = str(path), Path(path)
    table = here if here.name == mltable.FILE else here / mltable.FILE
    if os.path.isfile(table):
        return _together([_folder_or_file(named) for named in mltable.mltable_paths(table.parent)])
    try:
        here.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _matches(text)
    except OSError as error:
        raise UsageError(f"cannot be reached: {error.strerror}", where=text, fix="check its permissions") from None
    found = _folder_or_file(here)
    if here.is_dir() and (splits := splits_of(here, found.files)):
        what = f"holds the splits {', '.join(splits)}, which are read as one"
        found.said.append((here, Fault("several_splits", "", what)))
    return found


def _folder_or_file(path: Path) -> Found:
    return shards(path) if path.is_dir() else Found([path], [])


def _together(found: list[Found]) -> Found:
    return Found([file for one in found for file in one.files], [said for one in found for said in one.said])


def _matches(pattern: str) -> Found:
    files: list[Path] = []
    folders: list[Path] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        (folders if os.path.isdir(match) else files).append(Path(match))
    if not files:
        if folders:
            raise UsageError("matches folders only", where=pattern, fix=f"name one, or write {pattern.rstrip('/')}/*")
        raise UsageError("no such file or folder", where=pattern, fix="check the path")
    what, fix = "is a folder, and a pattern takes files only", "name the folder itself, or its files"
    of_files = [] if "**" in pattern else [(path, Fault("skipped_file", "", what, fix)) for path in folders]
    return Found(files, of_files)


def require_apart(path: Path, data: Iterable[str | Path]) -> None:
    """Raise UsageError when what is written to `path` would overwrite one of the files `data`."""
    if path.exists() and any(path.samefile(file) for file in data if Path(file).exists()):
        raise UsageError("is the data itself", where=str(path), fix="name another file to write to")


def read_records(path: Path, known_columns: frozenset[str]) -> Iterator[Record]:
    """Yield the records of one file; raise Unreadable when it cannot be read at all."""
    return records_of(read_pieces(path, known_columns))


def records_of(pieces: Iterable[bytes | Record]) -> Iterator[Record]:
    """Yield the records of what `read_pieces` yields."""
    first = 1
    for piece in pieces:
        if isinstance(piece, bytes):
            lines, num_lines = numbered_lines(unix_lines(piece))
            yield from ((first + number, line) for number, line in lines)
            first += num_lines
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
            yield from _pieces(stream, suffix_of(path), known_columns)


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
    for mark, what, fix in _OTHERS:
        if head.startswith(mark):
            raise Unreadable(f"is {what}", fix)
    if suffix in ARROW_SUFFIXES:
        raise Unreadable(f"is no {suffix[1:]} file: it starts with {head[:12]!r}", "give it the suffix of what it is")
    if suffix not in SUFFIXES:
        raise Unreadable(f"the suffix '{suffix}' is not one that we read", DATA_FILES)
    encoding = _encoding(head)
    start = _start(stream, encoding)
    is_table = suffix in TABLE_SUFFIXES and _JSON_START.match(start) is None
    if is_table or _begins_with_columns(start, known_columns):
        return _table(stream, encoding, "\t" if suffix in (".tsv", ".txt") else ",", known_columns)
    return json_pieces(functools.partial(_utf8_blocks, stream, encoding))


def _start(stream: BinaryIO, encoding: str) -> str:
    """Return how a text begins: its first line as far as column names go."""
    start = codecs.getincrementaldecoder(encoding)("replace").decode(stream.read(_LINE_BYTES))
    stream.seek(0)
    return start.lstrip().partition("\n")[0]


def _begins_with_columns(start: str, known_columns: frozenset[str]) -> bool:
    """Tell whether a text begins with names of columns, whatever its file is called; JSON does not."""
    words = [word.strip(' \r"') for word in re.split(r"[,;\t|]", start)]
    return not start.startswith(("{", "[")) and len(words) > 1 and not known_columns.isdisjoint(words)


def _opened(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise Unreadable("is no regular file, and is read more than once", "write what comes from it to a file first")
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
    if head and not head.strip(b"\0"):
        raise Unreadable("starts with zero bytes, as a crash leaves them", "delete them, or write the file again")
    if len(head) > 1 and not (any(head[0:8:2]) and any(head[1:8:2])):
        raise Unreadable("looks like UTF-16 without its mark", "save the file as UTF-8")
    return "utf-8"


def _utf8_blocks(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the file from its start in blocks of UTF-8. UTF-8 goes through untouched: its faults belong to lines."""
    stream.seek(len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
    if encoding.startswith("utf-8"):
        yield from _read(stream)
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")  # a lone surrogate belongs to its line, too
    for block in _read(stream):
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    decoder.decode(b"", final=True)


def _read(stream: BinaryIO) -> Iterator[bytes]:
    bytes(_KEPT_BYTES)  # glibc has seen a large piece freed, and now keeps the memory of blocks from one to the next
    if isinstance(stream, io.BufferedReader):  # a file as it lies on the disk
        yield from read_lines(stream.fileno(), stream.tell(), os.fstat(stream.fileno()).st_size, BLOCK_BYTES)
    else:
        while block := stream.read(BLOCK_BYTES):
            yield block
