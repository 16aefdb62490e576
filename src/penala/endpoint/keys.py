"""The two keys of an endpoint: a file of mode 0600, and nowhere else. They are shown again on request, never logged."""

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from penala.errors import EndpointError

Which = Literal["primary", "secondary"]


def new_key() -> str:
    """Return a fresh key of 192 random bits, safe in a shell and in a header."""
    return secrets.token_hex(24)


def write_keys(path: Path, keys: Mapping[str, str]) -> None:
    """Put both keys into `path`; of an older file there, no byte stays on the disk."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"primary_key": keys["primary_key"], "secondary_key": keys["secondary_key"]}, file)
        file.flush()
        os.fsync(file.fileno())
    old = open(path, "r+b") if path.exists() else None  # noqa: SIM115 - closed by _blank, after the new one is in place
    os.replace(temporary, path)
    if old is not None:
        with old:
            _blank(old.fileno())


def read_keys(path: Path) -> dict[str, str]:
    """Return `primary_key` and `secondary_key`; raise EndpointError when the file is gone."""
    try:
        try:
            return _read(path)
        except ValueError:  # blanked while it was open here: by now the new file is in its place
            return _read(path)
    except FileNotFoundError:
        raise EndpointError("the endpoint has no keys", where=str(path), fix="delete and deploy it again") from None


def _read(path: Path) -> dict[str, str]:
    keys: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return keys


def destroy_keys(path: Path) -> None:
    """Overwrite and remove the keys, and what an interrupted `write_keys` may have left."""
    for file in (path, path.with_suffix(".new")):
        if file.exists():
            with open(file, "r+b") as opened:
                _blank(opened.fileno())
            file.unlink()


def bearer_is_one_of(header: bytes, keys: Mapping[str, str]) -> bool:
    """Tell whether an Authorization header carries one of the keys; takes as long whichever byte differs."""
    scheme, _, given = header.partition(b" ")
    matches = [hmac.compare_digest(given.strip(), key.encode()) for key in keys.values()]
    return scheme.lower() == b"bearer" and any(matches)


def _blank(descriptor: int) -> None:
    os.pwrite(descriptor, b"\0" * os.fstat(descriptor).st_size, 0)
    os.fsync(descriptor)
