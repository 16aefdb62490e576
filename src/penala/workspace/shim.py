"""Run one command for one step attempt or one deployment, and outlive whoever started it.

A shim owns one folder, for one life of its command:

    cmd.json   {"argv": [...], "env": {...}, "cwd": ..., "grace_s": ..., "timeout_s": ...}, written before `launch`
    cmd.bin    the same as the shim reads it
    alive      held by flock from before the shim starts until the kernel has buried it: the only proof of life
    log.txt    what the command, and a failing shim, print
    pid.json   {"shim": pid, "command": pid}
    stop       somebody asked for the end
    exit.json  {"rc": code or -signal, "stopped": whether `stop` asked for it, "timed_out": whether it took too long,
               "started": s, "ended": s}; absent = lost

"Is it alive?" is asked of the kernel and never of a pid, so neither a reused pid nor a reboot gives a wrong answer.
Ask `alive` first and `read_exit` second: not alive and no exit record means that the attempt is lost.

Started as `python -I -S shim.py FOLDER LOCK_FD`. Standard library and Linux only: PR_SET_PDEATHSIG takes the command
down with its shim, PR_SET_CHILD_SUBREAPER hands every orphan of the command to the shim, which ends them all.
"""

from __future__ import annotations

import _thread
import ctypes
import fcntl
import marshal
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # a shim starts in a third of the time without typing, pathlib, contextlib, subprocess, json, enum
    import signal
    import subprocess
    from pathlib import Path
    from typing import Any, NoReturn
else:
    import _signal as signal  # the same without the enumerations

DEFAULT_GRACE_S = 1.0
MARKER = "PENALA_ATTEMPT_DIR"
_LONGEST_SLEEP_S = 3600.0
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


# -- for whoever starts, watches and stops a shim --


def launch(folder: Path) -> subprocess.Popen[bytes]:
    """Start a shim that runs FOLDER/cmd.json; raise BlockingIOError when one is alive there already.

    The lock is taken here and its descriptor handed over, so there is no moment at which a started shim looks dead.
    """
    import subprocess

    lock = take(folder / "alive")
    if lock is None:
        raise BlockingIOError(f"a shim is alive in {folder}")
    try:
        for name in ("exit.json", "pid.json", "stop"):
            (folder / name).unlink(missing_ok=True)
        (folder / "cmd.bin").write_bytes(marshal.dumps(read_json(folder / "cmd.json")))
        with open(folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _program(), os.path.realpath(folder), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
            )
    finally:
        os.close(lock)


def _program() -> str:
    """Return this file, or what Python made of it when it was imported here: not to be compiled for each shim."""
    import struct

    source = os.path.abspath(__file__)
    compiled = __spec__.cached if __spec__ is not None else None
    try:
        with open(compiled or os.devnull, "rb") as file:
            flags, mtime, size = struct.unpack("<3I", file.read(16)[4:])
    except (OSError, struct.error):
        return source
    status = os.stat(source)
    same = (flags, mtime, size) == (0, int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    return compiled if same and compiled is not None else source


def alive(folder: Path) -> bool:
    """Tell whether the shim of this folder lives."""
    return held(folder / "alive")


def read_exit(folder: Path) -> dict[str, Any] | None:
    """Return the exit record, or None while there is none (running, or lost when not `alive`)."""
    return read_json(folder / "exit.json")


def read_pids(folder: Path) -> dict[str, int] | None:
    """Return the process ids of the shim and its command, or None before both have started."""
    return read_json(folder / "pid.json")


def stop(folder: Path) -> None:
    """Ask the shim to end its command's whole tree (SIGTERM, the grace, SIGKILL); return at once."""
    try:
        (folder / "stop").touch()
    except OSError as error:  # a full disk must not keep anybody from stopping
        print(f"cannot write {folder}/stop: {error}", file=sys.stderr)
    pids = read_pids(folder)
    if pids is None:
        return  # starting, gone, or never there: a starting shim looks for `stop` once pid.json is written
    try:
        handle = os.pidfd_open(pids["shim"])
    except ProcessLookupError:
        return
    try:
        if alive(folder):  # asked after the handle was taken: the handle is surely the shim's
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        return  # it ended just now
    finally:
        os.close(handle)


def kill_leftovers(folder: Path, timeout_s: float = 10.0) -> int:
    """Kill every process of a dead shim's command; return how many there were.

    A process belongs to the attempt when it carries the marker in its environment, writes to its log, or shares the
    shim's session with one that does (a session's number is not given away while a member lives).
    Raise BlockingIOError while the shim is alive, TimeoutError when the kernel cannot end a process in time.
    """
    if alive(folder):
        raise BlockingIOError(f"a shim is alive in {folder}")
    killed: set[int] = set()
    deadline = time.monotonic() + timeout_s
    quiet = 0
    while quiet < 2:  # twice: a process may fork behind the back of one scan
        found = _leftovers(folder)
        quiet = 0 if found else quiet + 1
        for pid in found:
            _signal(pid, signal.SIGKILL)
        killed |= found
        if found:
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {sorted(found)} of {folder} do not end")
            time.sleep(0.005)
    return len(killed)


def take(path: Path) -> int | None:
    """Lock the file for this process and return its descriptor, or None when somebody else holds it.

    Closing the descriptor, or the death of every process that inherited it, sets the lock free.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(20):  # `held` of another process touches the lock for microseconds
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(0.002)
    os.close(descriptor)
    return None


def held(path: Path) -> bool:
    """Tell whether a living process holds the lock that `take` gave."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who ask do not see one another
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what `write_json` wrote, or None when nothing is there."""
    import json

    try:
        with open(path, encoding="utf-8") as file:
            value: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return None
    return value


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file so that a crash leaves the old one or the new one, whole and on the disk."""
    import json

    _write(path, json.dumps(value))


def _write(path: Path | str, text: str) -> None:
    temporary = f"{path}.{_thread.get_native_id()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_folder(os.path.dirname(path) or ".")


def sync_folder(folder: Path | str) -> None:
    """Bring the names in a folder to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the shim itself --


def _flat_json(values: dict[str, Any]) -> str:
    """Return numbers and truths by name as JSON."""
    return "{" + ", ".join(f'"{name}": {str(value).lower()}' for name, value in values.items()) + "}"


def main(folder: str, lock: int) -> None:
    """Run the command of `folder` to its end, or until SIGTERM, and leave nothing of it behind."""
    os.set_inheritable(lock, False)  # the lock speaks for the shim, never for what it runs
    os.chdir(folder)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with open("cmd.bin", "rb") as file:
        command = marshal.load(file)
    environment = {**os.environ, **command.get("env", {}), MARKER: folder}
    started = time.time()
    shim = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command["argv"], command.get("cwd") or folder, environment, libc, shim)
    _write("pid.json", _flat_json({"shim": shim, "command": child}))
    end = _watch(child, float(command.get("grace_s", DEFAULT_GRACE_S)), command.get("timeout_s"))
    _write("exit.json", _flat_json({**end, "started": started, "ended": time.time()}))


def _become(argv: list[str], cwd: str, environment: dict[str, str], libc: ctypes.CDLL, shim: int) -> NoReturn:
    """Turn the forked child into the command. Whatever fails is printed into the log and exits with 127."""
    try:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != shim:  # it died before the line above
            os._exit(137)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command expects the defaults
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, environment)
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        os.write(2, f"cannot start {argv[0]}: {reason}\n".encode(errors="replace"))
    os._exit(127)


def _watch(child: int, grace_s: float, timeout_s: float | None) -> dict[str, Any]:
    """Wait for the command, a stop or the timeout, then end its whole tree; return the first half of exit.json."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
    stopped, timed_out = os.path.exists("stop"), False
    while not stopped and not timed_out and _reap(codes) and child not in codes:
        got = signal.sigtimedwait(_SIGNALS, min(max(0.0, deadline - time.monotonic()), _LONGEST_SLEEP_S))
        stopped = got is not None and got.si_signo == signal.SIGTERM
        timed_out = got is None and time.monotonic() >= deadline
    # a command that ended by itself gets its helpers (resource trackers, daemons) a second to follow it
    _end_tree(codes, grace_s if stopped or timed_out else min(grace_s, 1.0))
    return {"rc": codes[child], "stopped": stopped, "timed_out": timed_out and not stopped}


def _end_tree(codes: dict[int, int], grace_s: float) -> None:
    """Terminate every descendant, and kill those that are left after the grace."""
    deadline = time.monotonic() + grace_s
    told: set[int] = set()
    while _reap(codes):
        over = time.monotonic() >= deadline
        for pid in _descendants(os.getpid()):  # parents first: `bash -c 'a; b'` must not go on to b
            if over or pid not in told:  # looked for again and again: one may be born while another is told
                _signal(pid, signal.SIGKILL if over else signal.SIGTERM)
                told.add(pid)
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)


def _reap(codes: dict[int, int]) -> bool:
    """Collect the exit codes of ended children; tell whether any child is left. Orphans of children are children."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        codes[pid] = os.waitstatus_to_exitcode(status)


# -- processes, from /proc --


def _descendants(root: int) -> list[int]:
    """List the living descendants of a process, each after its parent."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found[1:]


def _leftovers(folder: Path) -> set[int]:
    """Find the living processes that belong to the attempt in `folder`; never the one that asks."""
    marker = f"{MARKER}={os.path.realpath(folder)}".encode()
    log = os.path.realpath(folder / "log.txt")
    session = (read_json(folder / "pid.json") or {}).get("shim")
    marked, members = set(), set()
    for pid in _pids():
        fields = _stat(pid)
        if pid == os.getpid() or not fields or fields[0] == "Z":
            continue
        if int(fields[3]) == session:
            members.add(pid)
        if marker in _environment(pid) or log in _outputs(pid):
            marked.add(pid)
    return marked | members if marked & members else marked


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (state, parent, group, session, ...); empty when gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()  # the name in brackets may hold anything


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _outputs(pid: int) -> list[str]:
    """Return what standard output and standard error of a process lead to."""
    found = []
    for number in (1, 2):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue  # gone, or closed
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or no longer ours to signal (setuid)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
