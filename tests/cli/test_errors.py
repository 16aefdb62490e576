"""What a mistake at the terminal costs: one message, exit code 1 or 2, no traceback."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def penala(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "penala", *argv], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small recipe with good data beside it."""
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(12)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text("base_model: SmolLM2-135M-Instruct\nconversations: {train: train.jsonl}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["runn"], 2, "no command 'runn'; did you mean 'run'?"),
        (["run", "none.yaml", "-w", "ws"], 2, "-w stands before the command: penala -w DIR"),
        (["run", "none.yaml"], 2, "none.yaml: no such recipe; `penala recipe init` writes one"),
        (["data", "check", "none.jsonl"], 2, "none.jsonl: no such file"),
        (["jobs", "show", "x"], 1, "there is no workspace"),
        (["recipe", "init", "nowhere/recipe.yaml"], 2, "no such folder"),
        (["recipe", "init", "x" * 300], 1, "File name too long"),  # what the machine refuses, such as a read-only disk
    ],
)
def test_a_mistake_costs_one_line(tmp_path, argv, code, message):
    """The message says what and how to go on; nothing is made on the disk."""
    done = penala(*argv, cwd=tmp_path)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_name_cannot_move_the_cursor(tmp_path):
    """A terminal obeys control characters; in messages they are spelled out."""
    done = penala("data", "check", "x\x1b]0;owned\a.jsonl", cwd=tmp_path)

    assert done.returncode == 2
    assert r"x\x1b]0;owned\x07.jsonl: no such file" in done.stderr


def test_findings_that_cannot_be_written_are_known_before_the_check(tmp_path):
    """A long check is not thrown away at its end."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    done = penala("data", "check", "a.jsonl", "--out", "none/found.json", cwd=tmp_path)

    assert done.returncode == 2
    assert "none/found.json: cannot be written: No such file or directory" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (
            ["finetuning.lora_rr=8"],
            2,
            "finetuning.lora_rr: is no input of the fine-tuning component; did you mean 'lora_r'?",
        ),
        (["conversations.train=gone.jsonl"], 2, "gone.jsonl: no such file"),
        (["base_model=SmolLM2-135M-Instrct"], 1, "did you mean 'SmolLM2-135M-Instruct'?"),
        (["base_model=./empty"], 1, "empty"),
        (["evaluation.repliez={}"], 2, "evaluation.repliez: unknown key; did you mean 'replies'?"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_anything_starts(recipe, overrides, code, message):
    """No workspace is made for a recipe that is refused."""
    (recipe.parent / "empty").mkdir()
    flags = [part for override in overrides for part in ("--set", override)]

    done = penala("run", "recipe.yaml", *flags, cwd=recipe.parent)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (recipe.parent / ".penala").exists()


def test_a_broken_line_is_named_by_number(recipe):
    """The data's line 17 is found before a model is."""
    data = recipe.parent / "train.jsonl"
    lines = data.read_text(encoding="utf-8").splitlines() * 2
    data.write_text("\n".join([*lines[:16], '{"messages": [', *lines[17:]]) + "\n", encoding="utf-8")

    done = penala("run", "recipe.yaml", cwd=recipe.parent)

    assert done.returncode == 1
    assert "train.jsonl:17" in done.stderr
    assert "penala data check" in done.stderr


def test_json_ends_with_the_result_even_when_the_recipe_is_refused(recipe):
    """A machine that reads the last line always finds the result."""
    done = penala("run", "recipe.yaml", "--json", "--set", "finetuning.seed=x", cwd=recipe.parent)

    result = json.loads(done.stdout.splitlines()[-1])
    assert result["event"] == "result"
    assert result["status"] == "Failed"
    assert "finetuning.seed" in result["error"]
    assert result["model"] is None


def test_a_dry_run_checks_everything_and_makes_nothing(recipe):
    """--dry-run says that the recipe is fine, and the folder stays as it was."""
    before = sorted(recipe.parent.iterdir())

    done = penala("run", "recipe.yaml", "--dry-run", cwd=recipe.parent)

    assert done.returncode == 0, done.stderr
    assert "is fine" in done.stderr
    assert "Next: `penala run recipe.yaml`" in done.stderr
    assert sorted(recipe.parent.iterdir()) == before


def test_show_says_who_set_each_value(recipe):
    """You, the model's publisher, penala or the component."""
    done = penala("recipe", "show", "recipe.yaml", "--set", "finetuning.lora_r=4", "--json", cwd=recipe.parent)

    sources = {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert sources["finetuning.lora_r"] == (4, "you")
    assert sources["finetuning.seed"] == (42, "component")
    assert sources["conversations.train"] == ("train.jsonl", "you")
    assert sources["conversations.on_bad_row"] == ("error", "penala")


@pytest.mark.parametrize("verb", [("run", "--dry-run", "--no-deploy"), ("recipe", "check")])
def test_the_next_command_runs_what_was_checked(recipe, verb):
    """With the same workspace, changes and flags, quoted for a shell."""
    flags = ["--set", "finetuning.lora_r=4", "--set", "finetuning.max_steps=2"]
    done = penala("-w", "my ws", *verb, "recipe.yaml", *flags, cwd=recipe.parent)

    again = done.stderr.rpartition("Next: `")[2].rstrip("`\n")
    kept = ["--no-deploy"] if "--no-deploy" in verb else []
    assert shlex.split(again) == ["penala", "-w", "my ws", "run", "recipe.yaml", *flags, *kept]
