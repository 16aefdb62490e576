"""What `penala data` asks of the stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_data(paths: list[Path], schema: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Check every conversation of `paths`; return rows, good, bad and all findings, ready for JSON."""
    from penala.conversations.check import check

    return check(paths, schema=schema, columns=columns).as_dict()
