"""Prove the rows of a large file plain on all cores, while this process reads lines and remembers what they said."""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from penala.conversations.plain import PlainReader, Proof
from penala.conversations.records import Record

LARGE_BYTES = 32 << 20  # from here on the start of the processes pays
CHUNK_ROWS = 256  # go to a process together
_PR_SET_PDEATHSIG = 1
_reader: PlainReader  # of a worker process


def pays(path: Path) -> bool:
    """Tell whether a file is large enough, and there is more than one core."""
    return num_cores() > 1 and path.stat().st_size >= LARGE_BYTES


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def proved(records: Iterable[Record], columns: Sequence[str]) -> Iterator[tuple[Record, Proof | None]]:
    """Yield the records in order, each with its proof, or None when it is not proved plain (see PlainReader)."""
    left = iter(records)
    waiting: deque[tuple[list[Record], Future[list[Proof | None]]]] = deque()
    # forked, so that all processes hash alike
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_cores(), context, _begin, (os.getpid(), columns)) as pool:
        while chunk := list(islice(left, CHUNK_ROWS)):
            lines = [data if isinstance(data, bytes) else None for _, data in chunk]
            waiting.append((chunk, pool.submit(_prove, lines)))
            if len(waiting) > 2 * num_cores():
                yield from _merged(*waiting.popleft())
        while waiting:
            yield from _merged(*waiting.popleft())


def _merged(chunk: list[Record], proofs: Future[list[Proof | None]]) -> Iterator[tuple[Record, Proof | None]]:
    return zip(chunk, proofs.result(), strict=True)


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
