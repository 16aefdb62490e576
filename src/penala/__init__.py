"""Conversations in, a tuned chat model behind a keyed endpoint out.

import penala

recipe = penala.Recipe.load("recipe.yaml")
with penala.Workspace.open(create=True) as workspace:
    result = workspace.run(recipe)                       # check, import, prepare, tune, evaluate, package
    print(result["model"], result["evaluation"])         # registered: kopitiam:1
    print(workspace.endpoints.invoke("kopitiam", [{"role": "user", "content": "Hello!"}]))
"""

from typing import TYPE_CHECKING, Any

from penala.errors import (
    DataError,
    EndpointError,
    EngineError,
    JobError,
    ModelError,
    NotFound,
    PackageError,
    PenalaError,
    RecipeError,
    TemplateMismatch,
    TokensError,
    TrainingError,
    UsageError,
    WorkspaceError,
)

if TYPE_CHECKING:
    from penala.recipe import Recipe
    from penala.workspace.client import Workspace

__version__ = "0.1.0"
__all__ = [
    "DataError",
    "EndpointError",
    "EngineError",
    "JobError",
    "ModelError",
    "NotFound",
    "PackageError",
    "PenalaError",
    "Recipe",
    "RecipeError",
    "TemplateMismatch",
    "TokensError",
    "TrainingError",
    "UsageError",
    "Workspace",
    "WorkspaceError",
]


def __getattr__(name: str) -> Any:
    """Load what is heavy when it is first asked for, so that `penala --help` loads neither."""
    if name == "Recipe":
        from penala.recipe import Recipe

        return Recipe
    if name == "Workspace":
        from penala.workspace.client import Workspace

        return Workspace
    raise AttributeError(f"module 'penala' has no attribute '{name}'")
