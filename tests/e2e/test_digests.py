"""The same recipe, run in two places at two times, leaves the same bytes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penala.workspace.client import Workspace
from penala.workspace.store import StepRow

pytestmark = pytest.mark.slow


def run(folder: Path, model: Path) -> dict[str, dict[str, str] | None]:
    """Run a tiny recipe, every step of it, in a new project; return step -> output -> digest."""
    folder.mkdir(parents=True)
    shutil.copytree(model, folder / "model")
    turns = [f"kopi number {n}" for n in range(40)]
    rows = [[{"role": "user", "content": turn}, {"role": "assistant", "content": "teh"}] for turn in turns]
    (folder / "train.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    finetuning = {"num_train_epochs": 1, "learning_rate": 0.01, "logging_steps": 1}
    recipe = {"base_model": "model", "conversations": {"train": "train.jsonl"}, "finetuning": finetuning}
    (folder / "recipe.yaml").write_text(json.dumps(recipe | {"model": {"name": "tiny"}}))
    argv = [sys.executable, "-m", "penala", "run", "recipe.yaml", "--force-rerun", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    with Workspace.open(folder / ".penala") as workspace:
        return {row.name: row.outputs for row in workspace.store.find(StepRow)}


def test_every_output_is_the_same_in_another_place_at_another_time(tmp_path: Path, chat_model: Path) -> None:
    """No output holds a time, a duration, a random name, the name of a job or the path of a folder."""
    here, there = run(tmp_path / "here", chat_model), run(tmp_path / "another" / "place", chat_model)

    assert len(here) == 6
    assert all(here.values())
    assert here == there
