"""Run code cells in one namespace, as a notebook does: run_cells.py CELLS.json. A cell that fails is shown."""

import json
import sys
import time
from pathlib import Path

namespace = {"__name__": "__main__"}
for number, cell in enumerate(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))):
    began = time.monotonic()
    try:
        exec(compile(cell, f"cell-{number}", "exec"), namespace)
    except BaseException:
        print(f"cell {number} failed:\n{cell}", file=sys.stderr, flush=True)
        raise
    print(f"[cell {number}: {time.monotonic() - began:.1f} s]", flush=True)
