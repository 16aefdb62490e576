"""What a run will need, told before it starts: memory from the sizes alone, seconds from the machine's own speed.

Only `seconds_needed` touches torch. The memory formula counts what the fast path keeps; transformers keeps more.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
ACTIVATION_BYTES = 1.5e9  # that a micro-batch may keep before its layers are run again in the backward pass
LOGITS_BYTES = 0.2e9  # a chunk of logits with its gradient
PROCESS_BYTES = 0.6e9  # Python with torch, and the allocator's reserve
ADAPTER_BYTES = 16  # a float32 master, its gradient and two moments
SPEED_SHARE = 0.65  # of the bare matrix product's speed, measured for whole steps
_PROBE_S = 0.2


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a model decides time and memory; `linear` counts the weights of its blocks, `head` of its output."""

    parameters: int
    linear: int
    head: int
    hidden: int
    feed_forward: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any], parameters: int) -> "Sizes":
        """Read config.json; names that it lacks are filled from `parameters`."""
        hidden = int(config.get("hidden_size") or config.get("n_embd") or 1024)
        vocabulary = int(config.get("vocab_size") or 32000)
        head = hidden * vocabulary
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(
            parameters=parameters,
            linear=max(parameters - head * (1 if tied else 2), 1),
            head=head,
            hidden=hidden,
            feed_forward=int(config.get("intermediate_size") or 4 * hidden),
            layers=int(config.get("num_hidden_layers") or config.get("n_layer") or 24),
            vocabulary=vocabulary,
        )

    def activation_bytes(self, bytes_a_number: int) -> int:
        """Return the bytes that the backward pass needs of each token, over all layers."""
        return (12 * self.hidden + 4 * self.feed_forward) * self.layers * bytes_a_number


def bytes_a_number(precision: str) -> int:
    """Return 2 where precision 16 is bfloat16 on this machine, else 4."""
    return 2 if precision == "16" and has_bf16() else 4


@cache
def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; emulated, it was measured eight times slower than float32."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return False
    return any(BF16_FLAGS & set(line.partition(":")[2].split()) for line in lines if line.startswith("flags"))


def memory_needed(parameters: int, precision: str, *, adapter: int = 0, activations: float = ACTIVATION_BYTES) -> float:
    """Return the bytes that training needs at most.

    `parameters` and `adapter` are counts, `activations` the bytes of the largest micro-batch. The merged weights of a
    shard are written while the model is still held.
    """
    weights = parameters * bytes_a_number(precision)
    shard = min(parameters * 4.0, 5e9)
    return weights + adapter * ADAPTER_BYTES + max(activations + LOGITS_BYTES, shard) + PROCESS_BYTES


def memory_available() -> float:
    """Return the bytes that this process could still get, from the machine or from its control group."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        available = float(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
        used = float(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max", or no such group
        return available
    return min(available, limit - used)


def seconds_needed(sizes: Sizes, precision: str, tokens: int, supervised: int) -> float:
    """Return how long training on so many tokens takes, by the speed of a matrix product on this machine right now.

    Forward and backward through frozen weights are two products each, two operations a weight; the output head works
    on supervised tokens only.
    """
    operations = 4.0 * sizes.linear * tokens + 4.0 * sizes.head * supervised
    return operations / (_operations_a_second(sizes.hidden, precision) * SPEED_SHARE)


def _operations_a_second(width: int, precision: str) -> float:
    import torch

    dtype = torch.bfloat16 if bytes_a_number(precision) == 2 else torch.float32
    rows, columns = 256, min(4 * width, 8192)
    x, weight = torch.ones(rows, width, dtype=dtype), torch.ones(columns, width, dtype=dtype)
    x @ weight.mT  # the first product pays for setting up
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _PROBE_S:
        x @ weight.mT
        count += 1
    return 2.0 * rows * width * columns * count / (time.perf_counter() - start)
