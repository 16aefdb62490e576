"""Training steps of the fast path beside plain transformers + PEFT: same rows, same adapter, same losses, float32.

    python benchmarks/training.py                     short rows, a random model of SmolLM2-135M's shape
    python benchmarks/training.py --rows long         rows of about 1,000 tokens
    python benchmarks/training.py --model FOLDER      real weights: a plain model folder of a Llama

Each contestant runs in a process of its own, which tells its peak memory; the two take turns, and medians are compared.
Both get the allocator settings under which `penala run` starts a training step.
"""

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from turns import take_turns

from penala.training.batches import Document

CONTESTANTS = ("fast path", "transformers + PEFT")
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
RANK, ALPHA, RATE = 16, 32.0, 1e-3
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
}  # fmt: skip


def short_rows(rng: random.Random) -> list[Document]:
    """Return 8 conversations of about 50 tokens: a system prompt that all share, a question, a short answer."""
    system = list(range(500, 518))
    return [_document(rng, [*system, *_words(rng, rng.randint(17, 25))], rng.randint(9, 14)) for _ in range(8)]


def long_rows(rng: random.Random) -> list[Document]:
    """Return 2 conversations of about 1,000 tokens, three quarters of them the assistant's."""
    return [_document(rng, _words(rng, rng.randint(200, 300)), rng.randint(650, 850)) for _ in range(2)]


def _words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 40000) for _ in range(count)]


def _document(rng: random.Random, prompt: list[int], answer: int) -> Document:
    reply = _words(rng, answer)
    return Document(array("i", [*prompt, *reply]), array("i", [-100] * len(prompt) + reply))


ROWS: dict[str, Callable[[random.Random], list[Document]]] = {"short": short_rows, "long": long_rows}


def fast_path(folder: Path) -> tuple[Sequence["object"], Callable[[Sequence[Document]], "object"]]:
    """Return the adapter's parameters and the mean loss of a batch, as penala computes it."""
    import torch

    from penala.training.lora import LoraSpec
    from penala.training.model import open_model

    model, note = open_model(folder, LoraSpec(RANK, ALPHA), torch.float32)
    if note:
        raise SystemExit(note)
    model.reset_adapter(0)

    def loss(batch: Sequence[Document]) -> torch.Tensor:
        return model.loss_sum(batch) / sum(document.num_supervised for document in batch)

    return list(model.adapter.values()), loss


def transformers_peft(folder: Path) -> tuple[Sequence["object"], Callable[[Sequence[Document]], "object"]]:
    """Return the adapter's parameters and the mean loss of a batch, right-padded, as the libraries compute it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    adapter = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in adapter.items():
        if ".lora_A." in name:  # as penala draws it, so that the losses can be compared
            bound = parameter.shape[1] ** -0.5
            parameter.data.uniform_(-bound, bound, generator=generator)

    def loss(batch: Sequence[Document]) -> torch.Tensor:
        width = max(len(document) for document in batch)
        ids, labels = torch.zeros(len(batch), width, dtype=torch.long), torch.full((len(batch), width), -100)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, document in enumerate(batch):
            ids[row, : len(document)] = torch.tensor(document.ids)
            labels[row, : len(document)] = torch.tensor(document.labels)
            mask[row, : len(document)] = 1
        mean: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        return mean

    return list(adapter.values()), loss


def work(contestant: str, folder: Path, rows: str, steps: int) -> None:
    """Take a warm-up step and `steps` measured ones; print what was seen as one line of JSON."""
    import torch

    parameters, loss_of = (fast_path if contestant == CONTESTANTS[0] else transformers_peft)(folder)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)
    rng = random.Random(0)
    seconds, losses, tokens = [], [], 0
    for step in range(steps + 1):
        batch = ROWS[rows](rng)
        started = time.perf_counter()
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step:
            seconds.append(time.perf_counter() - started)
            tokens += sum(len(document) for document in batch)
        losses.append(loss.item())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "tokens": tokens, "losses": losses, "peak_bytes": peak}))


def random_model(folder: Path) -> None:
    """Write a random Llama of SmolLM2-135M's shape: speed does not depend on what the weights are."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SMOLLM2)).save_pretrained(folder)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Let the contestants take turns and print the table."""
    options = ("--model", str(folder), "--rows", arguments.rows, "--steps", str(arguments.steps))
    runs = take_turns(__file__, CONTESTANTS, arguments.rounds, *options, environment=ALLOCATOR)
    medians = {}
    print(f"{'':22}{'s a step':>10}{'tokens/s':>10}{'peak MB':>10}{'last loss':>12}")
    for contestant, found in runs.items():
        medians[contestant] = statistics.median(second for one in found for second in one["seconds"])
        speed = found[0]["tokens"] / arguments.steps / medians[contestant]
        peak = max(one["peak_bytes"] for one in found) / 1e6
        print(f"{contestant:22}{medians[contestant]:10.2f}{speed:10.0f}{peak:10.0f}{found[0]['losses'][-1]:12.6f}")
    print(f"the fast path is {medians[CONTESTANTS[1]] / medians[CONTESTANTS[0]]:.2f} times as fast")


def main() -> None:
    """Parse, then compare or work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a plain model folder; unset: a random model of SmolLM2's shape")
    parser.add_argument("--rows", choices=sorted(ROWS), default="short")
    parser.add_argument("--steps", type=int, default=4, help="measured steps a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contestant")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.model, arguments.rows, arguments.steps)
    elif arguments.model:
        compare(arguments.model, arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            random_model(Path(folder))
            compare(Path(folder), arguments)


if __name__ == "__main__":
    main()
