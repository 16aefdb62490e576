"""Run the kopitiam's recipe as a user would, and time it: `make demo`.

The weights are fetched and converted first, once; the clock starts after that.
"""

import subprocess
import sys
import time
from pathlib import Path

RECIPE = Path(__file__).parent / "recipe.yaml"


def penala(*argv: str) -> int:
    """Show a command, run it, and return its exit code."""
    print(f"$ penala {' '.join(argv)}", file=sys.stderr, flush=True)
    return subprocess.run([sys.executable, "-m", "penala", *argv], check=False).returncode


def main() -> int:
    """Return the exit code of the first command that failed, else 0."""
    if code := penala("models", "fetch", "SmolLM2-135M-Instruct"):
        return code
    started = time.monotonic()
    if code := penala("run", str(RECIPE.relative_to(Path.cwd()) if RECIPE.is_relative_to(Path.cwd()) else RECIPE)):
        return code
    print(f"demo took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
