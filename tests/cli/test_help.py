"""`penala --help`: quick, whole, and honest about what there is."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from penala.cli.main import COMMANDS, cli

HEAVY = {
    "torch", "transformers", "mlflow", "pydantic", "starlette", "uvicorn", "httpx", "msgspec", "peft", "jinja2",
    "tokenizers", "yaml", "rich", "huggingface_hub", "pyarrow", "numpy", "sqlite3",
}  # fmt: skip


def commands(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """Return every command below `command`, with its whole name."""
    found = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for verb in command.list_commands(context):
            found += commands(command.get_command(context, verb), f"{name} {verb}")
    return found


ALL = commands(cli, "penala")


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["models", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(argv):
    """What answers a question about the program needs none of its libraries but click."""
    script = f"""
import sys
from pathlib import Path
from penala.cli.main import cli
try:
    cli({argv!r}, standalone_mode=True)
except SystemExit:
    pass
print(",".join(sorted({HEAVY!r} & set(sys.modules))), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == ""
    assert done.stdout.startswith(("Usage:", "penala, version"))


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_says_what_it_does(name, command):
    """Each command has a help text whose first line is a sentence."""
    assert command.help
    assert len(command.help.splitlines()[0]) > 10


def test_the_nouns_of_the_first_page_are_the_nouns_that_exist():
    """No command is announced that cannot be loaded."""
    assert [name.split()[1] for name, _ in ALL if name.count(" ") == 1] == list(COMMANDS)


@pytest.mark.parametrize("name", [name for name, _ in ALL])
def test_the_reference_shows_what_the_program_answers(name):
    """Letter for letter, at the page's width."""
    page = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text(encoding="utf-8")
    argv = [*name.split()[1:], "--help"]
    answer = CliRunner().invoke(cli, argv, prog_name="penala", terminal_width=100, max_content_width=100)

    assert f"## `{name}`\n\n```text\n{answer.stdout.rstrip()}\n```\n" in page


def test_a_noun_lists_its_verbs_in_their_order_with_whole_sentences():
    """What is done first stands first; nothing ends in the middle of a sentence."""
    page = CliRunner().invoke(cli, ["recipe", "--help"]).stdout.partition("Commands:")[2]
    verbs = [line.split()[0] for line in page.splitlines() if line[2:3].strip()]

    assert verbs == ["init", "show", "schema", "check", "export"]
    assert "without loading a model: keys, values, files, every conversation export" in " ".join(page.split())
    assert "..." not in page
