"""Which workspace of Azure ML: the recipe says it, or the nearest config.json that Azure's portal hands out."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penala.errors import UsageError
from penala.recipe import Recipe

CONFIG = "config.json"
_NAMES = ("subscription_id", "resource_group", "workspace_name")
_SCOPE = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/[^/]+/workspaces/([^/]+)/?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Target:
    """A workspace of Azure ML."""

    subscription: str
    group: str
    workspace: str

    def __str__(self) -> str:
        return f"{self.workspace} (resource group {self.group}, subscription {self.subscription})"


def of_recipe(recipe: Recipe) -> Target:
    """Return the workspace that a recipe names, else that of the nearest config.json from its folder upwards.

    Raises UsageError when there is neither.
    """
    given = recipe.azureml
    if given is not None and given.subscription_id is not None:
        assert given.resource_group is not None
        assert given.workspace_name is not None
        return Target(given.subscription_id, given.resource_group, given.workspace_name)
    return nearest(recipe.folder)


def nearest(folder: Path) -> Target:
    """Return the workspace of the nearest config.json, from `folder` upwards. Raises UsageError for none."""
    folder = folder.absolute()
    for parent in (folder, *folder.parents):
        for file in (parent / ".azureml" / CONFIG, parent / CONFIG):
            if file.is_file() and (target := _read(file)) is not None:
                return target
    keys = ", ".join(_NAMES)
    fix = f"download config.json from the workspace's page in Azure's portal, or give the recipe `azureml: {{{keys}}}`"
    raise UsageError("nothing says which Azure ML workspace", where=str(folder), fix=fix)


def of_file(file: Path) -> Target:
    """Return the workspace that a config.json or a recipe names."""
    if file.suffix != ".json":
        return of_recipe(Recipe.load(file))
    target = _read(file)
    if target is None:
        raise UsageError(f"holds no {', '.join(_NAMES)}", where=str(file))
    return target


def _read(file: Path) -> Target | None:
    """Return what a config.json says; None for the file of something else, such as a model's or a local workspace's."""
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(file)) from None
    if not isinstance(config, Mapping) or "penala" in config:
        return None
    if (scope := _SCOPE.fullmatch(str(config.get("Scope", "")))) is not None:
        return Target(*scope.groups())
    if all(isinstance(config.get(name), str) for name in _NAMES):
        return Target(*(config[name] for name in _NAMES))
    return None
