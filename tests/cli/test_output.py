"""How tables are printed where a pipe or a file reads them, and commands that a person may copy."""

import json
import math
import shlex
import sys

import click
import pytest

from penala.cli.output import put_json, table, typed


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """By what a terminal shows: wide letters count twice, combining ones not at all; nothing is cut or folded."""
    table(("name", "about"), [("a", "x" * 300), ("日本", None), ("e\u0301", "y")])

    assert capsys.readouterr().out.splitlines() == ["name about", f"a    {'x' * 300}", "日本 -", "e\u0301    y"]


def test_json_is_one_line_for_every_reader(capsys: pytest.CaptureFixture[str]) -> None:
    """A reply may hold U+2028, a loss may be no number."""
    put_json({"reply": "kopi\u2028\x85 咖啡", "loss": [math.nan, (math.inf, 1.5)]})

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"reply": "kopi\u2028\x85 咖啡", "loss": [None, [None, 1.5]]}


def test_control_characters_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A name cannot clear the screen."""
    table(("name",), [("a\x1b[2J",)])

    assert capsys.readouterr().out == "name\na\\x1b[2J\n"


def test_many_rows_are_printed_plainly_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing them takes rich seconds."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich", None)
    table(("number",), [(number,) for number in range(1000)])

    assert len(capsys.readouterr().out.splitlines()) == 1001


@pytest.mark.parametrize(("workspace", "named"), [(None, []), ("my ws", ["-w", "my ws"])])
def test_a_command_to_type_next_names_the_workspace(workspace: str | None, named: list[str]) -> None:
    """The one that this command was told; a shell splits it into the same words."""
    root = click.Context(click.Command("penala"), obj=workspace)
    with click.Context(click.Command("run"), parent=root):
        assert shlex.split(typed("run", "my recipe.yaml")) == ["penala", *named, "run", "my recipe.yaml"]
