"""Checkpoints: whole or absent."""

import json
import resource
from pathlib import Path

import pytest
import torch

from penala.errors import TrainingError
from penala.tokens.lock import Golden, TemplateLock
from penala.training.checkpoints import MARKER, Progress, load, newest, progress_of, prune, require_lock, save

NO_LOCK = Path("nowhere")


@pytest.fixture
def state():
    """An adapter of two parameters and an optimizer that has taken a step."""
    torch.manual_seed(0)
    adapter = {"a": torch.nn.Parameter(torch.randn(3)), "b": torch.nn.Parameter(torch.randn(2, 2))}
    optimizer = torch.optim.AdamW(adapter.values(), lr=0.1)
    sum(parameter.square().sum() for parameter in adapter.values()).backward()
    optimizer.step()
    return adapter, optimizer


def test_what_was_saved_comes_back_to_the_bit(state, tmp_path):
    """Adapter, moments, random state and progress."""
    adapter, optimizer = state
    progress = Progress(run="r", step=7, seconds=1.5, tokens=99, nats=3.25, targets=11, eval_loss=0.125)
    save(tmp_path / "checkpoint-7", adapter, optimizer, progress, NO_LOCK)
    drawn = torch.rand(3)
    wanted = {name: parameter.detach().clone() for name, parameter in adapter.items()}
    moment = optimizer.state[adapter["a"]]["exp_avg"].clone()
    optimizer.step()
    load(tmp_path / "checkpoint-7", adapter, optimizer)

    assert all(torch.equal(adapter[name], wanted[name]) for name in adapter)
    assert torch.equal(optimizer.state[adapter["a"]]["exp_avg"], moment)
    assert torch.equal(torch.rand(3), drawn)
    assert progress_of(tmp_path / "checkpoint-7") == progress


def test_the_furthest_whole_checkpoint_is_the_newest(state, tmp_path):
    """A rolling one may be further than a numbered one; one without its marker is none."""
    adapter, optimizer = state
    for name, step in (("checkpoint-5", 5), ("checkpoint-rolling", 8), ("checkpoint-10", 10)):
        save(tmp_path / name, adapter, optimizer, Progress(step=step), NO_LOCK)
    (tmp_path / "checkpoint-10" / MARKER).unlink()

    assert newest(tmp_path) == tmp_path / "checkpoint-rolling"


def test_a_kill_before_the_renaming_loses_nothing(state, tmp_path):
    """A whole checkpoint under the name of a half gets its own, and a true half goes."""
    adapter, optimizer = state
    save(tmp_path / "checkpoint-rolling", adapter, optimizer, Progress(step=8), NO_LOCK)
    (tmp_path / "checkpoint-rolling").rename(tmp_path / "half-checkpoint-rolling")
    (tmp_path / "half-checkpoint-9").mkdir()

    assert newest(tmp_path) == tmp_path / "checkpoint-rolling"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-rolling"]


@pytest.mark.parametrize(("limit", "kept"), [(-1, [2, 4, 10]), (0, [2, 4, 10]), (1, [10]), (2, [4, 10])])
def test_pruning_keeps_the_newest_by_step(state, tmp_path, limit, kept):
    """By number, not by name: 10 is newer than 4. Below 1 keeps all."""
    for step in (2, 4, 10):
        save(tmp_path / f"checkpoint-{step}", *state, Progress(step=step), NO_LOCK)
    prune(tmp_path, limit)

    assert sorted(int(path.name.removeprefix("checkpoint-")) for path in tmp_path.iterdir()) == kept


def test_a_folder_that_is_gone_is_an_error_without_leftovers(state, tmp_path):
    """A file stands where the output folder should be."""
    (tmp_path / "out").write_text("")

    with pytest.raises(TrainingError, match="the checkpoint cannot be written: Not a directory; make room"):
        save(tmp_path / "out" / "checkpoint-1", *state, Progress(), NO_LOCK)


def test_a_disk_without_room_is_named_in_plain_words(tmp_path):
    """torch's own words for a write that came out short name a line of its source. A limit of files stands in."""
    adapter = {"weight": torch.nn.Parameter(torch.zeros(64, 64))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(TrainingError, match="the checkpoint cannot be written: No space left on device; make room"):
            save(tmp_path / "checkpoint-1", adapter, torch.optim.AdamW(adapter.values()), Progress(), NO_LOCK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def lock(tmp_path):
    """Write a template lock; keywords change it."""

    def lock(name, **changes):
        parts = {"templates": {"default": "a"}, "special_tokens": {"eos_token": "</s>"}, "policy": {}, "files": {}}
        goldens = [Golden([{"role": "user", "content": "x"}], None, True, "x", [1])]
        TemplateLock(**{**parts, "goldens": goldens, **changes}).save(tmp_path / name)
        return tmp_path / name

    return lock


def test_a_checkpoint_of_another_lock_is_refused_with_the_difference(state, tmp_path, lock):
    """What the model was shown is stored with its weights; the same lock passes, another and none are named."""
    folder, ours = tmp_path / "checkpoint-1", lock("ours.json")
    save(folder, *state, Progress(), ours)

    require_lock(folder, ours)
    with pytest.raises(TrainingError, match=r"special_tokens\.eos_token is <end> here and was </s> in training; empty"):
        require_lock(folder, lock("theirs.json", special_tokens={"eos_token": "<end>"}))
    with pytest.raises(TrainingError, match="golden rendering 1 is another one here"):
        require_lock(folder, lock("theirs.json", goldens=[]))
    with pytest.raises(TrainingError, match=r"nowhere: the model has no template lock"):
        require_lock(folder, NO_LOCK)
    (folder / "template_lock.json").unlink()
    require_lock(folder, NO_LOCK)
    with pytest.raises(TrainingError, match=r"checkpoint-1/template_lock.json: the model has no template lock"):
        require_lock(folder, ours)


def test_progress_of_another_form_is_that_of_no_run(tmp_path):
    """It belongs to no run, so no run goes on from it."""
    (tmp_path / "progress.json").write_text(json.dumps({"epoch": 3}))

    assert progress_of(tmp_path) == Progress()
