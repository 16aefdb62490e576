"""The tree of errors."""

import pickle

import pytest

from penala import errors
from penala.errors import PenalaError, near

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PenalaError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_a_process_border(kind):
    """What, where and how to fix arrive whole from a worker process."""
    error = pickle.loads(pickle.dumps(kind("broken", where="file:3", fix="mend it")))

    assert type(error) is kind
    assert str(error) == "file:3: broken; mend it"


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not PenalaError])
def test_each_error_is_also_a_standard_one(kind):
    """Code that knows nothing of penala can catch it."""
    assert issubclass(kind, ValueError | RuntimeError | LookupError)


def test_only_refused_input_exits_with_2():
    """1 is for findings and failures, 2 for what was refused before it began."""
    assert {kind.__name__ for kind in CLASSES if kind.exit_code == 2} == {"RecipeError", "UsageError"}


def test_the_near_name_is_offered_only_when_near():
    """A guess that is no help is not made."""
    assert near("lora_rr", ["lora_r", "seed"]) == "did you mean 'lora_r'?"
    assert near("zebra", ["lora_r", "seed"]) == ""
