"""Checkpoints from which a run goes on as if it had never stopped: adapter, optimizer, random state, place."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penala.errors import TokensError, TrainingError
from penala.tokens.lock import FILE as LOCK
from penala.tokens.lock import TemplateLock

MARKER = "checkpoint_done.txt"  # Azure's name; written last, so a checkpoint without it is none
ROLLING = "checkpoint-rolling"
HALF = "half-"  # before the name of a checkpoint that is being written
_NUMBERED = re.compile(r"^checkpoint-(\d+)$")


@dataclass(slots=True)
class Progress:
    """How far a run is. `nats` and `targets` are sums over the running epoch, `logged_*` since the last logged loss."""

    run: str = ""  # digest of what decides the run's numbers: settings, data, base model
    step: int = 0
    seconds: float = 0.0  # of the training loop, over all attempts
    tokens: int = 0
    nats: float = 0.0
    targets: int = 0
    logged_nats: float = 0.0
    logged_targets: int = 0
    eval_loss: float | None = None


def save(
    folder: Path, adapter: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress, lock: Path
) -> None:
    """Write a checkpoint beside its place and rename it there; a TrainingError leaves nothing of it.

    `lock` is the template lock of the prepared data, which goes with the checkpoint where there is one.
    """
    half = folder.with_name(f"{HALF}{folder.name}")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        state = {
            "adapter": {name: parameter.detach() for name, parameter in adapter.items()},
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, half / "state.pt")
        (half / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        if lock.is_file():
            shutil.copyfile(lock, half / LOCK)
        for file in half.iterdir():
            _sync(file)
        (half / MARKER).write_text("done\n", encoding="utf-8")
        _sync(half / MARKER)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(half, ignore_errors=True)
        short = "unexpected pos" in str(error)  # torch's words for a file that stayed shorter than what it wrote
        reason = "No space left on device" if short else getattr(error, "strerror", None) or error
        what = f"the checkpoint cannot be written: {reason}"
        fix = "make room on the disk and run the same command again: it goes on from the checkpoint before"
        raise TrainingError(what, where=str(folder), fix=fix) from None


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest(out: Path) -> Path | None:
    """Return the whole checkpoint in `out` that is furthest, once what a kill left has been settled.

    A kill between the marker and the renaming leaves a whole checkpoint under the name of a half: it gets its own
    name. True halves are removed.
    """
    for half in out.glob(f"{HALF}*"):
        if (half / MARKER).is_file():
            folder = out / half.name.removeprefix(HALF)
            shutil.rmtree(folder, ignore_errors=True)
            half.rename(folder)
        else:
            shutil.rmtree(half)
    found = [(progress_of(folder).step, folder) for folder in out.glob("checkpoint-*") if (folder / MARKER).is_file()]
    return max(found, default=(0, None))[1]


def progress_of(folder: Path) -> Progress:
    """Return how far the run was at this checkpoint; one in a form that is not ours belongs to no run."""
    try:
        fields: dict[str, Any] = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        return Progress(**fields)
    except (OSError, ValueError, TypeError):
        return Progress()


def require_lock(folder: Path, lock: Path) -> None:
    """Raise TrainingError that names the difference unless a checkpoint has the template lock of the prepared data."""
    there, here = folder / LOCK, lock
    if (there.read_bytes() if there.is_file() else None) == (here.read_bytes() if here.is_file() else None):
        return
    try:
        difference = TemplateLock.load(there).difference(TemplateLock.load(here))
    except TokensError as error:
        difference = str(error)
    what = f"this checkpoint was made with another template lock than the prepared data: {difference}"
    raise TrainingError(what, where=str(folder), fix=f"empty {folder.parent}, or prepare the data as it was")


def load(folder: Path, adapter: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Put adapter, optimizer and random state back as they were."""
    state = torch.load(folder / "state.pt", weights_only=True)
    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(state["adapter"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])


def prune(out: Path, limit: int) -> None:
    """Remove the oldest numbered checkpoints beyond `limit`; below 1 keeps all."""
    if limit < 1:
        return
    numbered = sorted(
        (folder for folder in out.iterdir() if _NUMBERED.match(folder.name)),
        key=lambda folder: progress_of(folder).step,
        reverse=True,
    )
    for folder in numbered[limit:]:
        shutil.rmtree(folder)


def tidy(out: Path) -> None:
    """Remove what only an unfinished run needs: the rolling checkpoint, halves, and seconds in the kept ones."""
    shutil.rmtree(out / ROLLING, ignore_errors=True)
    for half in out.glob(f"{HALF}*"):
        shutil.rmtree(half)
    for file in out.glob("checkpoint-*/progress.json"):
        fields = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(fields | {"seconds": 0.0}), encoding="utf-8")  # outputs hold no clock
