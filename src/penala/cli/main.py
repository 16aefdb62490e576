"""The `penala` command: its nouns, loaded when they are used, so that `penala --help` stays quick."""

import importlib
import sys

import click

from penala import __version__
from penala.cli.output import say
from penala.errors import PenalaError

# noun or verb -> what `penala --help` says of it; the module of the same name in this folder holds the command
COMMANDS = {
    "run": "Take conversations to a tuned model behind an endpoint",
    "recipe": "Write, check and explain recipes",
    "data": "Conversations: download, check, show; data assets",
    "models": "Base models and tuned model versions",
    "jobs": "Create, follow, stop and read jobs",
    "endpoints": "Addresses that answer, their keys and traffic",
    "deployments": "Model versions behind an endpoint",
    "invoke": "Send one conversation to an endpoint",
    "chat": "Talk to an endpoint in the terminal",
    "components": "What jobs are made of, penala's own and yours",
    "compute": "The machines that jobs run on",
    "workspace": "The folder that holds everything",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"penala.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from penala.errors import near

            hint = near(args[0], COMMANDS) or "`penala --help` lists the commands"
            raise click.UsageError(f"no command '{args[0]}'; {hint}", ctx) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="penala")
@click.option("-w", "--workspace", metavar="DIR", help="Workspace folder [default: the nearest .penala]")
@click.pass_context
def cli(ctx: click.Context, workspace: str | None) -> None:
    """Conversations in, a tuned chat model behind a keyed endpoint out.

    \b
    penala recipe init                       write a commented recipe
    penala run recipe.yaml                   run it
    penala invoke NAME question.json         ask the tuned model
    """
    ctx.obj = workspace


def main() -> None:
    """Run the command line; an expected failure is one message on stderr and exit code 1 or 2, never a traceback."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and error.option_name in ("-w", "--workspace"):
            say(f"{error.option_name} stands before the command: penala {error.option_name} DIR COMMAND ...")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        sys.stderr.close()
        sys.exit(1)
    except PenalaError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # a file that the machine refuses is the user's to mend; any other is a fault of ours
        if error.filename is None:
            raise
        say(f"error: {error.filename}: {error.strerror}")
        sys.exit(1)
