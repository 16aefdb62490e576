"""Azure's virtual machine sizes, and which of them a base model may be tuned, served or evaluated on.

The sizes lie in sizes.yaml. A model's own rules stand in its tags, or, since June 2026, in its system_metadata.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import yaml

from penala.errors import UsageError, near

if TYPE_CHECKING:
    from penala.basemodel.catalogue import Entry

Purpose = Literal["finetune", "inference", "evaluation"]
PREFIX = "Standard_"


@dataclass(frozen=True, slots=True)
class Size:
    """One size; `gpu` says which GPUs, `retired` is the ISO date on which Azure switched it off."""

    name: str
    family: str
    vcpus: int
    memory_gb: int  # GiB, as Azure counts
    gpus: int = 0
    gpu: str | None = None
    retired: str | None = None

    @property
    def gone(self) -> bool:
        """Whether Azure has switched it off by today."""
        return self.retired is not None and self.retired <= date.today().isoformat()

    def describe(self) -> str:
        """Say what it has, e.g. 8 x V100 32 GB, 40 vCPUs, 672 GiB."""
        gpus = f"{self.gpus} x {self.gpu}, " if self.gpus else ""
        retired = f", retired {self.retired}" if self.retired else ""
        return f"{gpus}{self.vcpus} vCPUs, {self.memory_gb} GiB{retired}"


@cache
def sizes() -> Mapping[str, Size]:
    """Return every known size by its name in small letters, in the table's order."""
    families = yaml.safe_load((files("penala.workspace") / "sizes.yaml").read_text(encoding="utf-8"))["families"]
    found = {}
    for family, about in families.items():
        retired = about.get("retired")
        for bare, (vcpus, memory_gb, *gpus) in about["sizes"].items():
            name = f"{PREFIX}{bare}"
            number, gpu = gpus or (0, None)
            when = str(retired) if retired else None
            found[name.lower()] = Size(name, family, vcpus, memory_gb, number, gpu, when)
    return found


def find_size(name: str) -> Size:
    """Return the size of this name, in any letter case, as Azure's own pages write them, with or without Standard_.

    Raises UsageError with the near name.
    """
    known = sizes()
    bare = re.sub(f"^{PREFIX}", "", name.strip(), flags=re.IGNORECASE)
    found = known.get(f"{PREFIX}{bare}".lower())
    if found is None:
        hint = near(f"{PREFIX}{bare}", {size.name for size in known.values()})
        raise UsageError(f"no size is called {name!r}", fix=f"{hint} `penala compute sizes` lists all".strip())
    return found


def allow_list(model: "Entry", purpose: Purpose) -> list[str] | None:
    """Return the sizes that a model's publisher allows for a purpose, or None where nothing is said.

    Read from the tag <purpose>_compute_allow_list, the text of a Python list, else from system_metadata's
    supportedComputes.<purpose>Computes, a list or such a text. Raises UsageError for what is no list.
    """
    tag = f"{purpose}_compute_allow_list"
    given: Any = model.tags.get(tag)
    if given is None:
        supported = model.system_metadata.get("supportedComputes")
        given = supported.get(f"{purpose}Computes") if isinstance(supported, Mapping) else None
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            given = [part.strip() for part in given.split(",") if part.strip()]
    if given is not None and not isinstance(given, list | tuple):
        raise UsageError(f"is no list of sizes: {given!r}", where=f"{model.reference}: {tag}")
    return None if given is None else [str(size) for size in given]


def check(size: str, model: "Entry", purpose: Purpose) -> str | None:
    """Return why `model` cannot be tuned (served, evaluated) on `size` in Azure, or None where it can.

    Raises UsageError for a size that is not known.
    """
    found = find_size(size)
    if found.gone:
        return f"{found.name} was retired on {found.retired}"
    allowed = allow_list(model, purpose)
    if allowed is None or found.name.lower() in {name.lower() for name in allowed}:
        return None
    doing = {"finetune": "fine-tuned", "inference": "deployed", "evaluation": "evaluated"}[purpose]
    where = f"on {found.name}; its publisher allows {', '.join(allowed)}" if allowed else "on any size"
    return f"{model.reference} cannot be {doing} {where}"
