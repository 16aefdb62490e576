"""The shim, with real processes: what it runs, what it records, and that nothing of it survives."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penala.workspace import shim

DOUBLE_FORK = "(setsid sleep 1007 &); sleep 1007"
CLEAN_DAEMON = "(setsid env -i sleep 1007 &); sleep 1007"  # no marker; still the log behind its output


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    if shim.alive(tmp_path):
        os.kill(int((shim.read_pids(tmp_path) or {})["shim"]), signal.SIGKILL)
        until(lambda: not shim.alive(tmp_path))
    shim.kill_leftovers(tmp_path)


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def start(folder: Path, *argv: str, grace_s: float = 0.2, **env: str) -> "subprocess.Popen[bytes]":
    shim.write_json(folder / "cmd.json", {"argv": argv, "env": env, "cwd": str(folder), "grace_s": grace_s})
    return shim.launch(folder)


def bash(folder: Path, script: str, **options: float) -> "subprocess.Popen[bytes]":
    """Start a bash script and wait until it says that it runs."""
    child = start(folder, "bash", "-c", f"touch up; {script}", **options)
    until((folder / "up").exists)
    return child


def name_of(pid: int) -> str:
    """Return the name of the program that a process runs, or nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def members(folder: Path) -> set[int]:
    """Return the living processes that carry the folder's marker, its shim aside."""
    found = set()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if f"{shim.MARKER}={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
        except OSError:
            continue
    return found


def test_a_command_leaves_its_output_and_its_exit_record(folder: Path) -> None:
    """Output and errors go to log.txt, the code to exit.json, and the variables and folder are those of cmd.json."""
    start(folder, "bash", "-c", "pwd; echo $COLOUR >&2; exit 3", COLOUR="red").wait()

    end = shim.read_exit(folder)
    assert end is not None
    assert (end["rc"], end["stopped"]) == (3, False)
    assert end["started"] <= end["ended"]
    assert (folder / "log.txt").read_text() == f"{folder}\nred\n"


def test_a_command_that_does_not_exist_is_a_failure_with_a_reason(folder: Path) -> None:
    """It ends with 127, as in a shell, and the log names it."""
    start(folder, "no-such-program").wait()

    assert (shim.read_exit(folder) or {})["rc"] == 127
    assert "cannot start no-such-program: No such file" in (folder / "log.txt").read_text()


def test_a_killed_command_is_recorded_with_its_signal(folder: Path) -> None:
    """The code of a command that SIGKILL ended is -9."""
    child = bash(folder, "sleep 1007")
    os.kill((shim.read_pids(folder) or {})["command"], signal.SIGKILL)
    child.wait()

    assert (shim.read_exit(folder) or {})["rc"] == -9
    assert not members(folder)


def test_the_lock_is_held_from_launch_to_death(folder: Path) -> None:
    """A started shim is alive at once, a second one is refused, and a dead one is not alive."""
    child = start(folder, "sleep", "1007")

    assert shim.alive(folder)
    with pytest.raises(BlockingIOError, match="a shim is alive"):
        shim.launch(folder)
    with pytest.raises(BlockingIOError, match="a shim is alive"):
        shim.kill_leftovers(folder)
    child.kill()
    child.wait()
    assert not shim.alive(folder)


def test_the_command_does_not_hold_the_lock(folder: Path) -> None:
    """A command that outlives its shim does not make the shim look alive."""
    child = bash(folder, CLEAN_DAEMON)
    child.kill()
    child.wait()

    assert not shim.alive(folder)
    assert shim.read_exit(folder) is None


def test_those_who_ask_do_not_disturb_one_another(folder: Path) -> None:
    """Asking for life is no proof of life to somebody who asks at the same moment."""
    (folder / "alive").touch()
    descriptor = os.open(folder / "alive", os.O_RDONLY)
    shim.fcntl.flock(descriptor, shim.fcntl.LOCK_SH)  # as `alive` of another process does for a moment

    assert not shim.alive(folder)
    os.close(descriptor)


@pytest.mark.parametrize(
    "script", ["sleep 1007; sleep 1007", DOUBLE_FORK, CLEAN_DAEMON], ids=["a; b", "daemon", "env -i"]
)
def test_stop_ends_the_whole_tree(folder: Path, script: str) -> None:
    """Neither the next command of a script nor a daemon survives a stop, which takes far less than the grace."""
    child = bash(folder, script, grace_s=5.0)
    before = time.monotonic()
    shim.stop(folder)
    child.wait()

    assert time.monotonic() - before < 2
    assert (shim.read_exit(folder) or {})["stopped"] is True
    assert not members(folder)
    assert shim.kill_leftovers(folder) == 0


def test_what_ignores_the_request_is_killed_after_the_grace(folder: Path) -> None:
    """A tree that ignores SIGTERM is gone when the grace is over."""
    child = bash(folder, f"trap '' TERM; {DOUBLE_FORK}; sleep 1007", grace_s=0.1)
    before = time.monotonic()
    shim.stop(folder)
    child.wait()

    assert time.monotonic() - before < 1
    assert not members(folder)


def test_a_stop_before_the_start_is_not_lost(folder: Path) -> None:
    """A stop that comes while the shim still starts is found when it has."""
    child = start(folder, "sleep", "1007")
    shim.stop(folder)
    child.wait(10)

    assert (shim.read_exit(folder) or {})["stopped"] is True


def test_a_daemon_ends_with_its_command(folder: Path) -> None:
    """What a command leaves running is ended before the exit record says that the step is over."""
    bash(folder, "(setsid sleep 1007 &)").wait()

    assert (shim.read_exit(folder) or {})["rc"] == 0
    assert not members(folder)


def test_the_command_dies_with_its_shim(folder: Path) -> None:
    """The kernel takes the command down when the shim is killed."""
    child = start(folder, "sleep", "1007")
    until(lambda: members(folder))
    child.kill()
    child.wait()

    until(lambda: not members(folder))


@pytest.mark.parametrize(
    "script", ["sleep 1007; sleep 1007", DOUBLE_FORK, CLEAN_DAEMON, "trap '' TERM; sleep 1007; sleep 1007"]
)
def test_leftovers_of_a_killed_shim_are_found_and_killed(folder: Path, script: str) -> None:
    """What PDEATHSIG does not reach (grandchildren, daemons, a cleaned environment) is found and killed."""
    child = bash(folder, script)
    until(lambda: "sleep" in [name_of(pid) for pid in shim._descendants(child.pid)])
    child.kill()
    child.wait()

    assert shim.kill_leftovers(folder) > 0
    assert not members(folder)
    assert shim.kill_leftovers(folder) == 0


def test_leftovers_are_only_those_of_the_folder(folder: Path) -> None:
    """Processes of another attempt, and one that merely reads the log, live on."""
    other = folder / "other"
    other.mkdir()
    stranger = start(other, "sleep", "1007")
    child = bash(folder, DOUBLE_FORK)
    with subprocess.Popen(["tail", "-f", folder / "log.txt"], stdout=subprocess.DEVNULL) as reader:
        child.kill()
        child.wait()
        shim.kill_leftovers(folder)

        assert reader.poll() is None
        assert shim.alive(other)
        reader.kill()
    shim.stop(other)
    stranger.wait()


def test_a_folder_can_be_used_again(folder: Path) -> None:
    """A new launch forgets the exit record and the stop of the one before."""
    start(folder, "false").wait()
    (folder / "stop").touch()
    child = start(folder, "true")

    assert shim.alive(folder)
    child.wait()
    end = shim.read_exit(folder) or {}
    assert (end["rc"], end["stopped"]) == (0, False)


def test_stopping_what_is_dead_or_never_was_does_nothing(folder: Path) -> None:
    """Stop sends no signal to a process whose shim is dead, even if its number was given away."""
    shim.stop(folder)
    shim.write_json(folder / "pid.json", {"shim": os.getpid(), "command": os.getpid()})
    shim.stop(folder)  # the number is ours, the lock is free: no signal

    assert shim.read_exit(folder) is None


def test_threads_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    """Each has a draft of its own; the last one stands."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: shim.write_json(tmp_path / "about.json", {"n": n}), range(200)))

    assert shim.read_json(tmp_path / "about.json")["n"] in range(200)
    assert os.listdir(tmp_path) == ["about.json"]


def test_a_shim_needs_nothing_but_the_standard_library() -> None:
    """It starts without site packages, and does not pay for what it does not use."""
    code = f"import sys; sys.path[:0] = [{str(Path(shim.__file__).parent)!r}]; import shim; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout

    assert not {"penala", "subprocess", "typing", "pathlib", "asyncio"} & set(loaded.split())


@pytest.mark.slow
def test_torchrun_leaves_nothing_behind(folder: Path) -> None:
    """Two ranks under torchrun end with a killed shim's leftovers, and with a stop."""
    script = folder / "rank.py"
    script.write_text("import os, pathlib, time; pathlib.Path('up' + os.environ['RANK']).touch(); time.sleep(1007)")
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29617", str(script)]
    for end in ("kill", "stop"):
        for rank in ("up0", "up1"):
            (folder / rank).unlink(missing_ok=True)
        child = start(folder, *argv)
        until(lambda: (folder / "up0").exists() and (folder / "up1").exists(), 120)
        shim.stop(folder) if end == "stop" else child.kill()
        child.wait()
        shim.kill_leftovers(folder)

        assert not members(folder)
