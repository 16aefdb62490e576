"""A Python for one attempt of a step whose command installs packages: this one's packages, and what it adds itself.

On Azure ML a job changes a container that is thrown away. Here pip would change the Python that penala runs with.
"""

from __future__ import annotations

import re
import site
import sys
from pathlib import Path

INSTALLS = re.compile(r"\bpip3?\s+(?:-\S+\s+)*install\b")
_PIP = '#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n'


def make_overlay(folder: Path) -> Path:
    """Make the Python in `folder`, and return its executable; it sees what is installed here, which pip leaves be."""
    import venv  # few commands need it

    venv.create(folder, symlinks=True, clear=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in here]  # with the .pth files of that place
    (packages / "penala_workspace.pth").write_text("".join(lines), encoding="utf-8")
    for name in ("pip", "pip3"):
        script = folder / "bin" / name
        script.write_text(_PIP, encoding="utf-8")
        script.chmod(0o755)
    return folder / "bin" / Path(sys.executable).name
