"""Judge the rows of a large file on all cores: each process reads its own part of the file."""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from penala.conversations.files import BLOCK_BYTES, readable
from penala.conversations.judge import Judge, Verdicts
from penala.conversations.lines import Range, line_ranges, read_lines

LARGE_BYTES = 32 << 20  # from here on the start of the processes pays
RANGE_BYTES = 4 << 20  # go to a process together
MAXIMUM_CORES = 8  # keep up with this process, which remembers what was said
_PR_SET_PDEATHSIG = 1
_judge: Judge  # of a worker process
_file: int


def pays(path: Path) -> bool:
    """Tell whether a file is large enough, and there is more than one core."""
    return num_cores() > 1 and path.stat().st_size >= LARGE_BYTES


def num_cores() -> int:
    """Return how many processes work."""
    return min(len(os.sched_getaffinity(0)), MAXIMUM_CORES)


def judged(path: Path, start: int, judge: Judge) -> Iterator[Verdicts]:
    """Yield what is said of each block of a file of lines, whose first one starts at `start`, in order.

    A process that dies costs time, no row: its part is judged here.
    """
    waiting: deque[tuple[Range, Future[list[Verdicts]] | None]] = deque()
    with readable():
        file = os.open(path, os.O_RDONLY)
    # forked: a process starts in milliseconds, with the judge that this one has made
    context = multiprocessing.get_context("fork")
    try:
        with readable(), ProcessPoolExecutor(num_cores(), context, _begin, (os.getpid(), file, judge)) as pool:
            for part in line_ranges(file, start, os.fstat(file).st_size, RANGE_BYTES):
                waiting.append((part, _submitted(pool, part)))
                if len(waiting) > 2 * num_cores():
                    yield from _merged(file, judge, *waiting.popleft())
            while waiting:
                yield from _merged(file, judge, *waiting.popleft())
    finally:
        os.close(file)


def _submitted(pool: ProcessPoolExecutor, part: Range) -> Future[list[Verdicts]] | None:
    try:
        return pool.submit(_work, part)
    except BrokenProcessPool:
        return None


def _merged(file: int, judge: Judge, part: Range, done: Future[list[Verdicts]] | None) -> list[Verdicts]:
    try:
        if done is not None:
            return done.result()
    except BrokenProcessPool:
        pass
    return _judged(file, judge, part)


def _begin(parent: int, file: int, judge: Judge) -> None:
    """Make a worker process ready: it ends with its parent, and leaves Ctrl-C to it."""
    global _file, _judge
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _file, _judge = file, judge


def _work(part: Range) -> list[Verdicts]:
    return _judged(_file, _judge, part)


def _judged(file: int, judge: Judge, part: Range) -> list[Verdicts]:
    return list(judge.blocks(read_lines(file, *part, BLOCK_BYTES)))
