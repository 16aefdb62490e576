"""The golden requests: those that the tutorial's own calls of the SDK send."""

import json
import re
from pathlib import Path
from typing import Any

from fake_azure.proxy import Call, Proxy

FOLDER = Path(__file__).parents[1] / "golden"
SENT = {
    "compute": "/computes/",
    "job": "/jobs/",
    "model": "/models/",
    "endpoint": "/onlineEndpoints/[^/]+$",
    "deployment": "/deployments/",
}


def read(name: str) -> list[Any]:
    """Return the golden bodies of one kind, in the order in which they were sent."""
    bodies: list[Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return bodies


def write(name: str, bodies: list[Any]) -> None:
    """Keep the bodies of one kind as golden."""
    text = json.dumps(bodies, indent=2, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def sent(proxy: Proxy) -> dict[str, list[Any]]:
    """Return the bodies of what was put, by kind; hashes and the job's name are blanked."""
    return {name: [_plain(call) for call in proxy.sent("PUT", path)] for name, path in SENT.items()}


def _plain(call: Call) -> Any:
    text = re.sub(r"LocalUpload/[0-9a-f]{32,64}/", "LocalUpload/HASH/", call.body.decode())
    return json.loads(re.sub(r"azureml://jobs/[^/]+/", "azureml://jobs/JOB/", text))
