"""Splits of hub sets that recipes name, fetched whole once and kept under the commit they came from."""

from pathlib import Path
from urllib.parse import quote

from penala.conversations.hub import HubSet, Report, Unreachable, open_set
from penala.conversations.hub_download import copies, download
from penala.recipe import HubAddress


def look_up(address: HubAddress) -> HubSet:
    """Ask the hub for the set that `address` names; raise UsageError when it lacks the split."""
    hub_set = open_set(address.repo, revision=address.revision, config=address.config)
    hub_set.chosen((address.split,))
    return hub_set


def fetch(address: HubAddress, cache: Path, report: Report) -> Path:
    """Return the split as a file in `cache`, fetched when this commit of it is not there yet.

    When the hub cannot be reached, or is lost, the newest copy of what was asked for does. Raises Unreachable without
    one.
    """
    home = cache.absolute() / "datasets" / address.repo.replace("/", "--")
    try:
        hub_set = look_up(address)
        folder = home / quote(f"{hub_set.config}-{hub_set.revision[:12]}", safe="")
        got = download(hub_set, folder, splits=(address.split,), is_ours=True, report=report)
        return Path(got[address.split].file)
    except Unreachable as error:
        for source, file in copies(home, address.split):
            if source["asked"] == (address.revision or "main") and address.config in (None, source["config"]):
                text = f"{error.what}: using the copy of {address} at {source['revision'][:12]}"
                report({"event": "note", "text": text})
                return file
        raise
