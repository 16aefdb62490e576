"""A noun's verbs, as its help page lists them."""

import inspect
import re

import click


class Verbs(click.Group):
    """A group that lists its verbs in the order in which they are written, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(verb)) for name, verb in self.commands.items()])


def _first_sentence(command: click.Command) -> str:
    """Return what a command does, without the example and the full stop at its end."""
    paragraph = inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ")
    sentence = paragraph.partition(", e.g. ")[0]
    return re.split(r"(?<!\.)\.(?: |$)", sentence)[0]  # PATH... goes on
