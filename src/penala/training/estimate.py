"""What a run will need, told before it starts: memory from the sizes alone, seconds from the machine's own speed.

Only `seconds_needed` touches torch. The memory formula counts what the fast path keeps; transformers keeps more.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
ACTIVATION_BYTES = 1.5e9  # that a micro-batch may keep for the backward pass; a longer document goes alone
RECOMPUTE_SHARE = 1 / 6  # of all memory: a document that would keep more has its layers run again instead
FOREIGN_ACTIVATIONS = 2.5  # transformers + PEFT keep so many times what the fast path keeps
HEAP_SHARE = 1.35  # of the activations: the heap between them; 1.26 was measured with rows of up to 4,492 tokens
LOGITS_BYTES = 0.2e9  # a chunk of logits with its gradient
PROCESS_BYTES = 0.6e9  # Python with torch, and the allocator's reserve
TRAINED_BYTES = 16  # a float32 master, its gradient and two moments
SPEED_SHARE = 0.65  # of the bare matrix product's speed, measured for whole steps
SMALLEST_MICRO_BATCH = 256  # tokens; below, products lose their speed
_PROBE_S = 0.2
_GROUP = Path("/sys/fs/cgroup")
_MANY_BYTES = 1e12  # stands for a total that nothing tells


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
        """Return the bytes that the fast path keeps of each token for the backward pass, over all layers.

        A layer keeps its two inputs, both normed, the attention's input and output, gate, up and their product.
        """
        return (8 * self.hidden + 3 * self.feed_forward) * self.layers * bytes_a_number


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


def memory_needed(parameters: int, precision: str, *, trained: int = 0, activations: float = ACTIVATION_BYTES) -> float:
    """Return the bytes that training needs at most.

    `parameters` and, of these or beside them, `trained` ones are counts, `activations` the bytes of the largest
    micro-batch. The merged weights of a shard are written while the model is still held.
    """
    weights = parameters * bytes_a_number(precision)
    shard = min(parameters * 4.0, 5e9)
    return weights + trained * TRAINED_BYTES + max(activations * HEAP_SHARE + LOGITS_BYTES, shard) + PROCESS_BYTES


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """How the documents of a step are cut, so that what the backward pass needs fits into memory."""

    max_tokens: int  # of a micro-batch of several documents
    recompute_above: int  # tokens of a document whose layers are run again in the backward pass
    largest_bytes: float  # what the largest micro-batch keeps

    @classmethod
    def plan(cls, sizes: Sizes, rows: Sequence[int], batch: int, *, bytes_a_number: int, fast: bool) -> "MicroBatches":
        """Plan for documents of so many `rows`, `batch` of them a step, on the fast path or through transformers.

        It depends on the sizes and on how much memory the machine has in all, never on what is free right now: a
        resumed run cuts as the run before did.
        """
        per_token = float(sizes.activation_bytes(bytes_a_number))
        if not fast:
            per_token = FOREIGN_ACTIVATIONS * per_token + 3 * 4 * sizes.vocabulary  # logits, float32, and two more
        max_tokens = max(SMALLEST_MICRO_BATCH, int(ACTIVATION_BYTES / per_token))
        recompute_above = max(max_tokens, int(min(memory_total() * RECOMPUTE_SHARE, _MANY_BYTES) / per_token))
        longest_first = sorted(rows, reverse=True)
        longest = longest_first[0]
        largest = max(longest, min(sum(longest_first[:batch]), max_tokens)) * per_token
        if longest > recompute_above:
            # the input of each layer stays, and the layer at work keeps all
            kept = longest * (sizes.hidden * sizes.layers * bytes_a_number + 2 * per_token / sizes.layers)
            largest = max(kept, min(sum(longest_first[1:]), recompute_above) * per_token)
        return cls(max_tokens, recompute_above, largest)


def memory_available() -> float:
    """Return the bytes that this process could still get, from the machine or from its control group."""
    return min(_meminfo("MemAvailable"), _group_bytes("memory.max") - _group_used())


def memory_total() -> float:
    """Return the bytes that the machine, or the control group, has in all."""
    return min(_meminfo("MemTotal"), _group_bytes("memory.max"))


def _meminfo(name: str) -> float:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        return float(fields[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return float("inf")


def _group_bytes(name: str) -> float:
    try:
        return float((_GROUP / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max", or no such group
        return float("inf")


def _group_used() -> float:
    """Return the bytes that the control group holds and could not give back: the file cache does not count."""
    try:
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        return _group_bytes("memory.current") - float(stat["inactive_file"])
    except (OSError, KeyError, ValueError):
        return 0.0


def seconds_needed(sizes: Sizes, precision: str, tokens: int, supervised: int, *, whole: bool = False) -> float:
    """Return how long training on so many tokens takes, by the speed of a matrix product on this machine right now.

    Forward and backward through a frozen weight are a product each, two operations a weight, and the gradient of a
    weight that is trained is a third; the output head works on supervised tokens only.
    """
    operations = (6.0 if whole else 4.0) * (sizes.linear * tokens + sizes.head * supervised)
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
