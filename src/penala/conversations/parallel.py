"""Prove the rows of a large file plain on all cores, while this process reads lines and remembers what they said."""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from penala.conversations.plain import PlainReader, Proof
from penala.conversations.records import Record, Unreadable

LARGE_BYTES = 32 << 20  # from here on the start of the processes pays
CHUNK_ROWS = 256  # go to a process together
MAXIMUM_CORES = 8  # keep up with this process, which reads the lines; each adds chunks that wait
_PR_SET_PDEATHSIG = 1
_Proofs = Future[list[Proof | None]] | None
_reader: PlainReader  # of a worker process


def pays(path: Path) -> bool:
    """Tell whether a file is large enough, and there is more than one core."""
    return num_cores() > 1 and path.stat().st_size >= LARGE_BYTES


def num_cores() -> int:
    """Return how many processes work."""
    return min(len(os.sched_getaffinity(0)), MAXIMUM_CORES)


def proved(records: Iterable[Record], columns: Sequence[str]) -> Iterator[tuple[Record, Proof | None]]:
    """Yield the records in order, each with its proof, or None when it is not proved plain (see PlainReader).

    A process that dies costs time, no row: what it had is not proved. What stops the reading stops it after the rows
    before have been yielded.
    """
    left, stopped = iter(records), None
    waiting: deque[tuple[list[Record], _Proofs]] = deque()
    # forked, so that all processes hash alike
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_cores(), context, _begin, (os.getpid(), columns)) as pool:
        while stopped is None:
            chunk: list[Record] = []
            try:
                chunk.extend(islice(left, CHUNK_ROWS))
            except Unreadable as error:
                stopped = error
            if not chunk:
                break
            waiting.append((chunk, _submitted(pool, chunk)))
            if len(waiting) > 2 * num_cores():
                yield from _merged(*waiting.popleft())
        while waiting:
            yield from _merged(*waiting.popleft())
    if stopped is not None:
        raise stopped


def _submitted(pool: ProcessPoolExecutor, chunk: list[Record]) -> _Proofs:
    try:
        return pool.submit(_prove, [data if isinstance(data, bytes) else None for _, data in chunk])
    except BrokenProcessPool:
        return None


def _merged(chunk: list[Record], proofs: _Proofs) -> Iterator[tuple[Record, Proof | None]]:
    none: list[Proof | None] = [None] * len(chunk)
    try:
        return zip(chunk, proofs.result() if proofs is not None else none, strict=True)
    except BrokenProcessPool:
        return zip(chunk, none, strict=True)


def _begin(parent: int, columns: Sequence[str]) -> None:
    """Make a worker process ready: it ends with its parent, and leaves Ctrl-C to it."""
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _reader = PlainReader(columns)


def _prove(lines: list[bytes | None]) -> list[Proof | None]:
    return [None if line is None or (row := _reader.read(line)) is None else row.proof() for line in lines]
