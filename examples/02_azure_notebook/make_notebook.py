"""Write tutorial.ipynb from tutorial.py, whose cells begin with `# %%`: same script, same bytes (a test compares)."""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook() -> str:
    """Return the notebook's JSON."""
    parts = re.split(r"^# %%(.*)\n", (HERE / "tutorial.py").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    cells = [_cell(number, *part) for number, part in enumerate(zip(parts[::2], parts[1::2], strict=True))]
    whole = {"cells": cells, "metadata": {"kernelspec": _KERNEL}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, heading: str, text: str) -> dict[str, Any]:
    """Return one cell; `heading` is what stands behind # %%: nothing, [markdown] or tags=[...]."""
    tags = json.loads(heading.partition("tags=")[2] or "[]")
    cell: dict[str, Any] = {"id": f"cell-{number:02}", "metadata": {"tags": tags} if tags else {}}
    if "[markdown]" in heading:
        text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        cell |= {"cell_type": "markdown"}
    else:
        cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
    return cell | {"source": text.strip().splitlines(keepends=True)}


if __name__ == "__main__":
    (HERE / "tutorial.ipynb").write_text(notebook(), encoding="utf-8")
