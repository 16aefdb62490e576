"""The rows of one split as training reads them: an Arrow IPC file, which is mapped into memory and not read.

input_ids   list<int32>
supervised  list<int32>   where the tokens that carry loss begin and end: start, stop, start, stop, ...
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from penala.errors import TokensError
from penala.tokens.byte_lengths import Numbers

COLUMNS = ("input_ids", "supervised")
BATCH_TOKENS = 1 << 20  # are held until they are written together


def split_file(folder: Path, split: str) -> Path:
    """Return where the rows of a split lie in a prepared folder."""
    return folder / f"{split}.arrow"


class RowsWriter:
    """Writes the rows of one split, in order. The same rows give the same bytes."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        self._pyarrow = pyarrow
        self._file = pyarrow.OSFile(str(path), "wb")
        self._writer = pyarrow.ipc.new_file(self._file, _schema())
        self._begin()

    def _begin(self) -> None:
        self._rows: list[tuple[Numbers, Numbers]] = []
        self._tokens = 0

    def add(self, ids: Sequence[int] | Numbers, supervised: Sequence[int]) -> None:
        """Append a row: its ids, and where its supervised tokens begin and end."""
        self._rows.append((np.asarray(ids, np.int32), np.asarray(supervised, np.int32)))
        self._tokens += len(ids)
        if self._tokens >= BATCH_TOKENS:
            self._flush()

    def _flush(self) -> None:
        lists = [self._list(column) for column in zip(*self._rows, strict=True)]
        self._writer.write_batch(self._pyarrow.RecordBatch.from_arrays(lists, schema=_schema()))
        self._begin()

    def _list(self, rows: Sequence[Numbers]) -> Any:
        """Make a column of buffers: given numpy's arrays, pyarrow imports pandas, which takes most of a second."""
        pyarrow, borders, numbers = self._pyarrow, np.cumsum([0, *map(len, rows)], dtype=np.int32), np.concatenate(rows)
        number = pyarrow.int32()
        values = pyarrow.Array.from_buffers(number, len(numbers), [None, pyarrow.py_buffer(numbers)])
        buffers = [None, pyarrow.py_buffer(borders)]
        return pyarrow.Array.from_buffers(pyarrow.list_(number), len(rows), buffers, children=[values])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()
        self._file.close()


class PreparedRows:
    """The rows of one split, mapped into memory: pages that nobody looks at take none.

    Raises TokensError for a file that is missing or is none of ours, and names the first row whose supervised tokens
    are no stretches of its ids.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow

        if not path.is_file():
            raise TokensError("there is no such file", where=str(path), fix=_FIX)
        try:
            table = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
            if table.schema != _schema():
                raise TokensError(f"holds {', '.join(table.schema.names)}, not {', '.join(COLUMNS)}", where=str(path))
            batches = [table.get_batch(n) for n in range(table.num_record_batches)]
        except (pyarrow.ArrowException, OSError) as error:
            raise TokensError(f"cannot be read: {error}", where=str(path), fix=_FIX) from None
        self._parts = [tuple(_numbers(column) for column in batch.columns) for batch in batches]
        self._firsts = [0, *np.cumsum([batch.num_rows for batch in batches], dtype=int).tolist()]
        for first, ((id_borders, _), (borders, places)) in zip(self._firsts, self._parts, strict=False):
            _check(np.diff(id_borders), borders, places, path, first)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def row(self, number: int) -> tuple[Numbers, Numbers]:
        """Return the ids of a row, and where its supervised tokens begin and end: both look into the file."""
        part = bisect_right(self._firsts, number) - 1
        at = number - self._firsts[part]
        ids, supervised = (numbers[borders[at] : borders[at + 1]] for borders, numbers in self._parts[part])
        return ids, supervised

    @property
    def supervised(self) -> "list[tuple[Numbers, Numbers]]":
        """Return (borders, places) of each part of the file: `places` of row n lie in [borders[n], borders[n + 1])."""
        return [supervised for _, supervised in self._parts]


_FIX = "prepare the data again"


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema([(name, pyarrow.list_(pyarrow.int32())) for name in COLUMNS])


def _numbers(column: Any) -> tuple[Numbers, Numbers]:
    """Return the borders of a column's lists, and the numbers in them, as views of its buffers."""
    _, borders, _, numbers = column.buffers()
    return np.frombuffer(borders, np.int32, len(column) + 1), np.frombuffer(numbers, np.int32, len(column.values))


def _check(lengths: Numbers, borders: Numbers, places: Numbers, path: Path, first: int) -> None:
    """Raise TokensError unless the places of each row ascend within its ids and are in pairs."""
    rows = np.repeat(np.arange(len(lengths)), np.diff(borders))
    wrong = (places < 0) | (places > lengths[rows])
    wrong[1:] |= (places[1:] <= places[:-1]) & (rows[1:] == rows[:-1])
    broken = [*rows[wrong].tolist(), *np.flatnonzero(np.diff(borders) % 2).tolist()]
    if broken:
        what = "the supervised tokens are no stretches of the ids"
        raise TokensError(what, where=f"{path}: row {first + min(broken) + 1}", fix=_FIX)
