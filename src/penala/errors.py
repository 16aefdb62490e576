"""One tree of errors. Each says what is wrong, where, and how to fix it.

PenalaError            exit code 1: findings in data, or work that failed
├── RecipeError        exit code 2: a recipe that is refused
├── UsageError         exit code 2: a flag, a path or a job document that is refused
├── DataError          conversations that cannot be used
├── TokensError        a chat template or a tokenizer that cannot be used
│   └── TemplateMismatch   a package whose template is not the one it was trained with
├── ModelError         a base model that cannot be had or read
├── TrainingError      training that cannot start or go on
├── EngineError        a model that cannot write replies
├── PackageError       an MLflow model folder that cannot be written or read
├── EndpointError      an endpoint that cannot be made, reached or changed
├── WorkspaceError     a workspace folder that cannot be used
├── JobError           a job that failed or cannot be changed
└── NotFound           a name that nothing answers to
"""

import difflib
from collections.abc import Iterable


class PenalaError(Exception):
    """An expected failure: `what` went wrong, `where` (file, line, key), and how to `fix` it. All are plain text."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        # Exception pickles its positional arguments only; worker processes send the other two along as state
        return (type(self), (self.what,), {"where": self.where, "fix": self.fix})


class RecipeError(PenalaError, ValueError):
    """A recipe that is refused before anything starts."""

    exit_code = 2


class UsageError(PenalaError, ValueError):
    """A flag, a path or a job document that is refused before anything starts."""

    exit_code = 2


class DataError(PenalaError, ValueError):
    """Conversations that cannot be used as they are."""


class TokensError(PenalaError, ValueError):
    """A chat template or tokenizer that cannot be used, or a mask that cannot be proved."""


class TemplateMismatch(TokensError):
    """A package whose chat template or tokenizer is not the one that it was trained with."""


class ModelError(PenalaError, RuntimeError):
    """A base model that cannot be had or read."""


class TrainingError(PenalaError, RuntimeError):
    """Training that cannot start or go on."""


class EngineError(PenalaError, RuntimeError):
    """A model that cannot write replies."""


class PackageError(PenalaError, RuntimeError):
    """An MLflow model folder that cannot be written or read."""


class EndpointError(PenalaError, RuntimeError):
    """An endpoint or deployment that cannot be made, reached or changed."""


class WorkspaceError(PenalaError, RuntimeError):
    """A workspace folder that cannot be used."""


class JobError(PenalaError, RuntimeError):
    """A job that failed or cannot be changed."""


class NotFound(PenalaError, LookupError):
    """A name that nothing answers to."""


def counted(count: int, thing: str) -> str:
    """Return how many there are: `1 row`, `2,000 rows`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def near(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the known name nearest to `name`, or an empty text when none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else ""
