"""The computes of a workspace: for now this machine, under the name `local`."""

import os
from pathlib import Path
from typing import Any

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def this_machine() -> dict[str, Any]:
    """Return what this machine offers: cores, memory in GB, GPUs, and the arithmetic that training uses on it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": "local",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "arithmetic": "bfloat16" if BF16_FLAGS & _cpu_flags() else "float32",
    }


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
