"""How assets are named: NAME:VERSION, azureml:NAME@latest, and the ids that Azure ML gives them."""

import re
from dataclasses import dataclass
from typing import Literal

from penala.errors import NotFound, UsageError, near

Kind = Literal["models", "data", "components", "environments"]
LATEST = "latest"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_ID = re.compile(
    r"(?:azureml:/{1,2}(?:registries/(?P<registry>[^/]+)/)?"
    r"|(?:azureml:/{1,2}|/)(?:subscriptions|locations)/(?:[^/]+/)*?(?:workspaces/[^/]+|registries/(?P<owner>[^/]+))/)"
    r"(?P<kind>models|data|components|environments)/(?P<name>[^/]+)/(?P<by>versions|labels)/(?P<at>[^/]+)/?",
    re.IGNORECASE,
)
_SHORT = re.compile(r"(?P<name>[^:@/\\]+)(?:(?P<by>[:@])(?P<at>[^:@/\\]+))?")


@dataclass(frozen=True, slots=True)
class AssetName:
    """What a reference names. `version` is "latest" for the newest; `registry` is None outside of registries."""

    name: str
    version: str = LATEST
    registry: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{LATEST}" if self.version == LATEST else f"{self.name}:{self.version}"


def is_asset(text: str) -> bool:
    """Whether `text` names an asset as a job document does: azureml:NAME..., or an id of Azure ML's.

    Outputs of jobs and paths in datastores, which begin alike, are none.
    """
    if text.startswith("azureml:") and not text.startswith("azureml:/"):
        return True
    return _ID.fullmatch(text) is not None


def parse(text: str, kind: Kind) -> AssetName:
    """Read NAME, NAME:VERSION, NAME@latest, any of these behind `azureml:`, or an id of Azure ML's.

    Raises UsageError for what is none of them, for an asset of another kind and for a label other than latest.
    """
    match = _ID.fullmatch(text)
    if match is not None and match["kind"].lower() != kind:
        raise UsageError(f"names one of the {match['kind']}, not of the {kind}", where=text)
    registry = match["registry"] or match["owner"] if match is not None else None
    match = match or _SHORT.fullmatch(text.removeprefix("azureml:"))
    if match is None:
        fix = f"write NAME:VERSION, NAME@latest or azureml://registries/REGISTRY/{kind}/NAME/versions/VERSION"
        raise UsageError(f"names none of the {kind}", where=text, fix=fix)
    if match["by"] in ("@", "labels") and match["at"] != LATEST:
        raise UsageError(f"has no label {match['at']!r}", where=text, fix=f"the one label is {LATEST}")
    return AssetName(match["name"], match["at"] or LATEST, registry)


def require_name(name: str, version: str | None = None) -> None:
    """Raise UsageError for a name or version that a reference could not hold."""
    for what, value in (("name", name), ("version", version)):
        if value is not None and (NAME.fullmatch(value) is None or value == LATEST):
            fix = "use letters, digits, '.', '_' and '-', a letter or digit first"
            raise UsageError(f"is no {what} of an asset", where=repr(value), fix=fix)


def next_version(versions: list[str]) -> str:
    """Return the whole number after the highest one of `versions`; those that are no numbers do not count."""
    return str(max((int(version) for version in versions if version.isascii() and version.isdigit()), default=0) + 1)


def missing(what: str, wanted: AssetName, names: set[str], versions: list[str], *, shown_by: str) -> NotFound:
    """Return the error for an asset that is not there, with its versions, the near name, or the command for all."""
    if versions:
        text = f"{wanted.name} has no version {wanted.version!r}"
        return NotFound(text, fix=f"its versions: {', '.join(versions)}")
    return NotFound(f"no {what} is called {wanted.name!r}", fix=near(wanted.name, names) or f"`{shown_by}` shows them")
