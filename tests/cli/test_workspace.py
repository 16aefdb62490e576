"""`penala workspace`: what it prints, and that nothing goes unasked."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penala.cli.main import cli
from penala.workspace.client import Workspace
from penala.workspace.store import JobRow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a workspace with one old job, and a file that a dead process left an hour ago."""
    with Workspace.open(tmp_path / "ws", create=True) as made:
        made.store.insert(JobRow("old", "Old", "pipeline", "Completed", {}, "d", created=1.0, ended=2.0))
        (made.jobs.folder / "old").mkdir()
        (made.jobs.folder / "old" / "log.txt").write_bytes(b"x" * 2_000_000)
    return tmp_path / "ws"


def penala(folder: Path, *argv: str, answer: str = "") -> Result:
    return CliRunner().invoke(cli, ["-w", str(folder), "workspace", *argv], input=answer)


def test_status_says_what_the_disk_holds(folder: Path) -> None:
    """The folder, megabytes by use, the counts, the disk, and the way to free some."""
    said = penala(folder, "status")

    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert lines[0] == str(folder)
    assert ["jobs", "2.0"] in [line.split() for line in lines]
    assert "1 jobs, 0 model versions, 0 endpoints" in lines
    assert f"`penala -w {folder} workspace gc --jobs-older-than DAYS --dry-run`" in said.stderr
    shown = json.loads(penala(folder, "status", "--json").stdout)
    assert (shown["jobs"], shown["bytes"]["jobs"], shown["can_go"]["jobs"]["count"]) == (1, 2_000_000, 0)


def test_a_job_goes_only_after_a_yes(folder: Path) -> None:
    """A dry run and a no leave everything; a yes, or --yes, does not."""
    assert (
        "would go: 1 jobs, 0 cache entries, 2.0 MB"
        in penala(folder, "gc", "--jobs-older-than", "1", "--dry-run").stdout
    )
    refused = penala(folder, "gc", "--jobs-older-than", "1", answer="n\n")
    assert refused.exit_code == 1
    assert "Remove 1 jobs, 0 cache entries, 2.0 MB?" in refused.stderr
    assert "--yes does it without the question" in refused.stderr  # there is no terminal
    assert (folder / "jobs" / "old").exists()

    assert "gone: 1 jobs" in penala(folder, "gc", "--jobs-older-than", "1", answer="y\n").stdout
    assert not (folder / "jobs" / "old").exists()
    again = json.loads(penala(folder, "gc", "--jobs-older-than", "1", "--yes", "--json").stdout)
    assert (again["dry_run"], again["bytes"], again["jobs"]["count"]) == (False, 0, 0)


def test_without_jobs_nothing_is_asked(folder: Path) -> None:
    """What nobody needs goes without a question."""
    said = penala(folder, "gc")

    assert said.exit_code == 0
    assert "gone: 0 jobs, 0 cache entries, 0.0 MB" in said.stdout


@pytest.mark.parametrize("days", ["-1", "many"])
def test_days_are_a_number(folder: Path, days: str) -> None:
    """Anything else is refused with exit code 2."""
    assert penala(folder, "gc", "--jobs-older-than", days).exit_code == 2
