"""Conversations to token ids and labels on the disk, beside datasets.map and beside the tokenizer alone.

    python benchmarks/tokens.py                      20 MB, made for the run
    python benchmarks/tokens.py --file FILE          a JSONL file of your own
    python benchmarks/tokens.py --model FOLDER       another model's tokenizer and chat template

penala checks, splits, renders, masks, proves the mask, tokenises and writes; "rows in memory" is the same without the
check and the reading. datasets.map reads and calls apply_chat_template in one process, without a mask. The tokenizer
alone encodes texts that were rendered before. For all of them loading the tokenizer is timed and imports are not. Each
runs in a process of its own, which tells the peak memory of itself and its children together, looked at ten times a
second (what they share counts twice); they take turns, and medians are compared.
"""

import argparse
import contextlib
import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
from turns import take_turns

from conversations import write_rows

BASE_MODEL = "SmolLM2-135M-Instruct"


def prepare_with_penala(path: Path, model: Path, out: Path) -> tuple[float, int]:
    """Do what the data preparation step does."""
    return _prepare(path, model, out, in_memory=False)


def prepare_rows_in_memory(path: Path, model: Path, out: Path) -> tuple[float, int]:
    """Render, mask, prove, tokenise and write what was read before."""
    return _prepare(path, model, out, in_memory=True)


def _prepare(path: Path, model: Path, out: Path, *, in_memory: bool) -> tuple[float, int]:
    import pyarrow  # noqa: F401 - it is imported where it is first needed, which would be timed

    from penala.conversations.check import check
    from penala.conversations.split import split
    from penala.tokens.prepare import PrepareSettings, prepare

    rows = check(path).conversations if in_memory else None
    started = time.perf_counter()
    splits = split(check(path) if rows is None else rows, "none", "none")
    figures = prepare(splits, model, out, PrepareSettings(on_too_long="drop"), lambda event: None)
    return time.perf_counter() - started, figures["tokens"]["train"]["total"]


def map_with_datasets(path: Path, model: Path, out: Path) -> tuple[float, int]:
    """Read the file with datasets and map apply_chat_template over its rows."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    AutoTokenizer.from_pretrained(model)  # it imports more when it is first called
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(out))
    mapped = rows.map(
        lambda row: {"input_ids": tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]},
        remove_columns=rows.column_names,
    )
    seconds = time.perf_counter() - started
    return seconds, sum(len(ids) for ids in mapped["input_ids"])


def tokenizer_alone(path: Path, model: Path, out: Path) -> tuple[float, int]:
    """Encode the rendered texts on all cores; rendering them is not timed."""
    from tokenizers import Tokenizer

    from penala.conversations.check import check
    from penala.tokens.chat_tokenizer import ChatTokenizer

    chat = ChatTokenizer.from_folder(model)
    texts = iter([chat.render([message.as_dict() for message in row.messages]) for row in check(path).conversations])
    started, tokens = time.perf_counter(), 0
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    while batch := list(islice(texts, 64)):
        tokens += sum(len(found.ids) for found in tokenizer.encode_batch(batch, add_special_tokens=False))
    return time.perf_counter() - started, tokens


CONTESTANTS: dict[str, Callable[[Path, Path, Path], tuple[float, int]]] = {
    "penala": prepare_with_penala,
    "rows in memory": prepare_rows_in_memory,
    "datasets.map": map_with_datasets,
    "tokenizer alone": tokenizer_alone,
}


def work(contestant: str, path: Path, model: Path) -> None:
    """Run one contestant; print what was seen as one line of JSON."""
    peaks = [0]
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(peaks, ended), daemon=True)  # of a contestant that fails, too
    watch.start()
    with tempfile.TemporaryDirectory() as out:
        seconds, tokens = CONTESTANTS[contestant](path, model, Path(out))
    ended.set()
    watch.join()
    peak = max(*peaks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_bytes": peak}))


def _watch(peaks: list[int], ended: threading.Event) -> None:
    """Note the memory of this process and its children, in bytes."""
    this = psutil.Process()
    while not ended.wait(0.1):
        total = 0
        for process in (this, *this.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has just ended
                total += process.memory_info().rss
        peaks.append(total)


def compare(path: Path, model: Path, rounds: int) -> None:
    """Let the contestants take turns and print the table."""
    runs = take_turns(__file__, CONTESTANTS, rounds, "--file", str(path), "--model", str(model))
    base = statistics.median(run["seconds"] for run in runs["penala"])
    print(f"{'':20}{'s':>8}{'tokens/s':>12}{'x penala':>10}{'peak MB':>10}")
    for contestant, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        peak = max(run["peak_bytes"] for run in found) / 1e6
        print(f"{contestant:20}{seconds:8.2f}{found[0]['tokens'] / seconds:12,.0f}{seconds / base:10.2f}{peak:10.0f}")


def base_model() -> Path:
    """Fetch the base model of the examples, once."""
    from penala.basemodel.catalogue import resolve
    from penala.basemodel.sources import obtain

    return obtain(resolve(BASE_MODEL), Path(".penala") / "cache", lambda event: None)


def main() -> None:
    """Parse, then compare or work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="a JSONL file; unset: one is made")
    parser.add_argument("--model", type=Path, help=f"a model folder; unset: {BASE_MODEL}, fetched once")
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.file, arguments.model)
        return
    model = arguments.model or base_model()
    if arguments.file:
        compare(arguments.file, model, arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, arguments.megabytes * 1_000_000)
        compare(path, model, arguments.rounds)


if __name__ == "__main__":
    main()
