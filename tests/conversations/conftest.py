import json
from pathlib import Path
from typing import Any

import pytest

from penala.conversations.check import Check, check


def chat(*turns: str, **columns: Any) -> dict[str, Any]:
    """Return a row whose turns are user, assistant, user, ..."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    return {**columns, "messages": messages}


@pytest.fixture
def write(tmp_path):
    """Write bytes, text, or rows (as JSON lines) to a file of the test's folder and return its path."""

    def write(name: str, content: bytes | str | list[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def rows():
    """Make any number of different good rows."""

    def rows(count: int) -> list[dict[str, Any]]:
        return [chat(f"What does drink number {i} cost?", f"RM {i}.50.") for i in range(count)]

    return rows


@pytest.fixture
def codes(write):
    """Check one file and return {line: codes of its findings}; what concerns the whole file is under None."""

    def codes(name: str, content: bytes | str | list[Any], **options: Any) -> dict[int | None, list[str]]:
        checked: Check = check(write(name, content), minimum_rows=0, **options)
        found: dict[int | None, list[str]] = {}
        for finding in checked.findings:
            found.setdefault(finding.line, []).append(finding.code)
        return found

    return codes
