"""Start the ranks of `distribution: pytorch` on this machine, and give their lines to the log.

`python -I -S ranks.py PROCESSES NODES ARGV...` runs ARGV NODES x PROCESSES times, each with its part of the env://
contract: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, NODE_RANK, MASTER_ADDR, MASTER_PORT. The kernel chooses the
port right before the ranks start, among those that nobody uses. When a rank fails, the launcher ends with its code and
its last lines; whoever started it (the shim) ends what is left. Standard library and Linux only.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections import deque

LAST_LINES = 20
LONGEST_LINE = 1 << 16  # bytes; what is longer is cut into lines


class _Rank:
    """One process and its lines, which come through a pipe."""

    def __init__(self, number: int, argv: list[str], environment: dict[str, str], prefix: str) -> None:
        self.number = number
        self.prefix = prefix.encode()
        self.last: deque[bytes] = deque(maxlen=LAST_LINES)
        self._half = b""
        self.process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        self.pipe = self.process.stdout.fileno()
        os.set_blocking(self.pipe, False)

    def relay(self) -> bool:
        """Write the lines that have come; return False when no more can come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.pipe, 1 << 16):
                *lines, self._half = (self._half + data).split(b"\n")
                if len(self._half) > LONGEST_LINE:
                    lines, self._half = [*lines, self._half], b""
                self._write(lines)
            return False
        return True

    def end(self) -> None:
        """Write what has come, also a last line without its end."""
        self.relay()
        self._write([self._half] if self._half else [])

    def _write(self, lines: list[bytes]) -> None:
        self.last.extend(lines)
        os.write(1, b"".join(self.prefix + line + b"\n" for line in lines))


def main(processes: int, nodes: int, argv: list[str]) -> int:
    """Run all ranks; return 0 when each did, else the code of the first one that failed."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the ranks are told too: their last words shall reach the log
    world = processes * nodes
    threads = {} if world == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // world))}
    port = _free_port()
    ranks = []
    for number in range(world):
        environment = {**threads, **os.environ, **_contract(number, processes, world, port)}
        try:
            ranks.append(_Rank(number, argv, environment, f"[rank {number}] " if world > 1 else ""))
        except OSError as error:
            print(f"cannot start {argv[0]}: {error.strerror}", flush=True)
            return 127
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.pipe, selectors.EVENT_READ, rank)
            selector.register(os.pidfd_open(rank.process.pid), selectors.EVENT_READ, rank)
        while ranks:
            for key, _ in selector.select():
                rank = key.data
                if key.fd == rank.pipe:
                    if not rank.relay():
                        selector.unregister(key.fd)
                    continue
                selector.unregister(key.fd)
                ranks.remove(rank)
                rank.end()
                if rank.process.wait() != 0:
                    return _fail(rank)
    return 0


def _contract(number: int, processes: int, world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number % processes),
        "NODE_RANK": str(number // processes),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _fail(rank: _Rank) -> int:
    """Say which rank failed, with its last lines, in the log and as the step's error; return the exit code."""
    code = rank.process.returncode
    how = f"ended with exit code {code}" if code > 0 else f"was killed by {signal_name(-code)}"
    print(f"rank {rank.number} {how}; its last lines:", flush=True)
    os.write(1, b"".join(line + b"\n" for line in rank.last))
    words = next((line.decode(errors="replace").strip() for line in reversed(rank.last) if line.strip()), "")
    what, where = f"rank {rank.number} {how}: {words or 'it printed nothing'}", os.environ.get("PENALA_STEP")
    event = {"event": "error", "what": what, "where": where and f"step {where}"}
    with open(os.environ.get("PENALA_EVENTS", os.devnull), "a", encoding="utf-8") as events:
        events.write(json.dumps(event) + "\n")
    return code if code > 0 else 128 - code


def signal_name(number: int) -> str:
    """Return SIGKILL for 9, and so on; most of the real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
