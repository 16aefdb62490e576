"""Docs that run: generated pages are new, the README's recipe loads, its commands exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from penala.cli.main import cli
from penala.conversations.check import check
from penala.conversations.schemas import SCHEMAS
from penala.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]


def test_the_generated_pages_are_new():
    """`make docs` would change nothing."""
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_the_recipe_of_the_readme_loads(tmp_path):
    """The whole recipe that the README shows is one."""
    text = re.search(r"```yaml\n(base_model:.*?)```", README, re.DOTALL)[1]
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")

    assert Recipe.load(tmp_path / "recipe.yaml").endpoint.name == "my-model"


def commands() -> list[str]:
    """Return every penala command that the pages tell people to type."""
    found = set()
    for page in PAGES:
        if "reference" not in page.parts:
            text = page.read_text(encoding="utf-8")
            found |= set(re.findall(r"`(penala [a-z][^`|]*)`", text))
            for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
                found |= {match.strip() for match in re.findall(r"(?:^|\| )(penala [^#|\n]*)", block, re.MULTILINE)}
    return sorted(found)


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_docs_exists(line):
    """Each word and each option of it is known to the program."""
    command: click.Command = cli
    context = click.Context(cli, info_name="penala")
    words = [word for word in shlex.split(line)[1:] if word not in {"...", "RECIPE"}]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(context, words[0])
        assert child is not None, f"{words[0]} is no command"
        command, words = child, words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}


def test_every_link_between_pages_leads_somewhere():
    """No page points at a file that is not there."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_recipes_of_the_examples_load():
    """Every recipe in examples/ is one, and its files are there."""
    for path in sorted((ROOT / "examples").rglob("recipe.yaml")):
        recipe = Recipe.load(path)
        assert recipe.path(recipe.conversations.train).exists()


def test_the_pins_cover_every_direct_dependency():
    """constraints.txt pins what pyproject.toml asks for."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    for requirement in asked:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()
        assert re.search(rf"^{re.escape(name)}==", pins, re.MULTILINE), f"{name} is not pinned"


def test_the_rows_of_the_docs_are_read_as_they_say(tmp_path):
    """Each row that docs/conversations.md shows is a good one, of the schema that is named for it."""
    page = (ROOT / "docs" / "conversations.md").read_text(encoding="utf-8")
    rows = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1].splitlines()
    named = re.search(r"They are, in this order,(.*?)\n\n", page, re.DOTALL)[1]
    schemas = []
    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(row, encoding="utf-8")
        checked = check(path)
        assert (checked.good, [finding.code for finding in checked.findings]) == (1, ["too_few_rows"])
        schemas += checked.schemas.values()

    assert [name for name in re.findall(r"`(\w+)`", named) if name in SCHEMAS] == schemas


def test_the_python_of_the_docs_runs(chat_model, tmp_path):
    """What docs/tokens.md shows runs, with its assertions."""
    page = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")
    row = {"messages": [{"role": "user", "content": "How much?"}, {"role": "assistant", "content": "RM 2."}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "model").symlink_to(chat_model)
    source = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_workflow_files_parse():
    """Makefile's helper files are what their tools expect."""
    assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
