"""What an endpoint or a deployment is told that only its entity gives back: description, tags, sizes, probes."""

import json
from pathlib import Path
from typing import Any

from penala.workspace import services, shim

ENDPOINT = "about.json"


class About:
    """A file in the endpoint's folder, which goes with it."""

    def __init__(self, workspace: Path, endpoint: str, deployment: str | None = None) -> None:
        name = ENDPOINT if deployment is None else f"about.{deployment}.json"
        self._file = services.endpoint_folder(workspace, endpoint) / name

    def keep(self, **fields: Any) -> None:
        """Replace what is kept."""
        shim.write_json(self._file, fields)

    def read(self) -> dict[str, Any]:
        """Return what is kept, or nothing."""
        try:
            found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def forget(self) -> None:
        """Remove what is kept."""
        self._file.unlink(missing_ok=True)
