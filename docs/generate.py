"""Write the generated pages of docs/reference: the command line as it answers, inputs as they are
read, and what a data check says.

python docs/generate.py            write the pages
python docs/generate.py --check    exit 1 when a page is old
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from penala.cli.main import COMMANDS, cli
from penala.conversations.check import LEVELS
from penala.conversations.faults import CODES
from penala.inputs import used_inputs
from penala.recipe import OUR_DEFAULTS, finetuning_inputs

REFERENCE = Path(__file__).parent / "reference"


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, help text) of a command and of everything below it."""
    word = name.split()[-1]
    settings = command.context_settings  # which options ask for help
    context = click.Context(
        command, info_name=word, parent=parent, terminal_width=100, max_content_width=100, **settings
    )
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            child = command.get_command(context, verb)
            assert child is not None
            yield from commands(child, f"{name} {verb}", context)


def cli_page() -> str:
    """Return the page of all help texts."""
    parts = ["# Command line", "", "Made by `make docs` from the program's own help texts.", ""]
    for name, text in commands(cli, "penala"):
        parts += [f"## `{name}`", "", "```text", text.rstrip(), "```", ""]
    assert len(COMMANDS) > 5
    return "\n".join(parts)


def finetuning_page() -> str:
    """Return the page of fine-tuning inputs: type, default, and whether a recipe may change it today."""
    parts = [
        "# Fine-tuning inputs",
        "",
        "Made by `make docs` from the component's YAML. `default` is what runs when neither the recipe nor the model's",
        "publisher says anything; penala's own defaults are in bold, the rest are Azure ML's. An input marked *fixed*",
        "is refused by name when a recipe sets it to anything else.",
        "",
        "| input | type | default | | what it does |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, spec in finetuning_inputs().items():
        default = f"**{OUR_DEFAULTS[name]}**" if name in OUR_DEFAULTS else "" if spec.default is None else spec.default
        kind = ", ".join(spec.enum) or spec.type
        fixed = "" if name in used_inputs() else "fixed"
        parts.append(f"| `{name}` | {kind} | {default} | {fixed} | {spec.description} |")
    return "\n".join([*parts, ""])


def findings_page() -> str:
    """Return the page of what a data check can say: code, level, and what to do."""
    parts = [
        "# What a data check says",
        "",
        "Made by `make docs` from the checks of `penala data check`, `penala recipe check` and every run. An *error*",
        "makes a row bad: a run stops, or leaves the row out where the recipe says `on_bad_row: drop`. A row with a",
        "*warning* is trained. A *note* is said once a file, with the count. The codes are stable, for scripts that",
        "read `--json`.",
        "",
        "| code | level | what to do |",
        "| --- | --- | --- |",
    ]
    for code, (level, fix) in sorted(CODES.items(), key=lambda item: (LEVELS.index(item[1].level), item[0])):
        parts.append(f"| `{code}` | {level} | {fix.replace('|', chr(92) + '|')} |")
    return "\n".join([*parts, ""])


def main(check: bool) -> int:
    """Write or compare the pages; return the exit code."""
    old = []
    pages = {"cli.md": cli_page(), "finetuning.md": finetuning_page(), "findings.md": findings_page()}
    for name, text in pages.items():
        path = REFERENCE / name
        if check:
            old += [] if path.is_file() and path.read_text(encoding="utf-8") == text else [path]
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in old:
        print(f"{path} is old; `make docs` writes it anew", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
