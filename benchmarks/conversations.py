"""Reading and checking conversations beside json.loads and datasets: the same file of ultrachat's shape.

    python benchmarks/conversations.py                      200 MB, made for the run
    python benchmarks/conversations.py --megabytes 1000     as large as ultrachat_200k's train_sft
    python benchmarks/conversations.py --file FILE          a JSONL file of your own

Each contestant runs in a process of its own, which imports its libraries before the clock starts; they take turns, and
medians are compared. Peak memory is that of the process, plus that of the largest one it started.
"""

import argparse
import importlib
import json
import math
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Literal

from turns import take_turns

# of the rows: with characters that are not ASCII, with brackets, with backslashes or tabs
SHARE_NOT_ASCII, SHARE_BRACKETS, SHARE_ESCAPES = 0.26, 0.15, 0.055
WORDS = 4000  # are known


def write_rows(path: Path, num_bytes: int) -> None:
    """Write conversations in the shape of ultrachat_200k until the file is large enough.

    The figures are those of 248 rows: turns, length of texts (of questions the half are short), 8 line ends and 2
    quotes a 1,000 characters, 26 % of the rows not ASCII, most of those for a few characters, a few for a passage, 15 %
    with some ten brackets, 5.5 % with some thirty backslashes or tabs.
    """
    rng = random.Random(0)
    plain = ["".join(rng.choices("etaoinshrdlcum", k=rng.randint(2, 9))) for _ in range(WORDS)]
    plain += ["end.\n\n"] * (WORDS // 45) + ['"so"', "it's"] * (WORDS // 200)
    accented = ["café", "naïve", "\u201cso\u201d", "it\u2019s", "20\u00b0", "\u2022 one"]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            row = _row(rng, plain, accented)
            written += len(row.encode())
            file.write(row)


def _row(rng: random.Random, plain: list[str], accented: list[str]) -> str:
    (turns,) = rng.choices((1, 2, 3, 4), (47, 34, 14, 5))
    texts = []
    for _ in range(turns):
        for median, spread in ((23, 1.2), (180, 0.7)):  # words of a question, of an answer
            texts.append(rng.choices(plain, k=max(round(rng.lognormvariate(math.log(median), spread)), 3)))
    if rng.random() < SHARE_NOT_ASCII:
        words = rng.choice(texts)
        _sprinkle(rng, words, accented, 3)
        if rng.random() < SHARE_NOT_ASCII / 4:
            words += rng.choices(("\u5b66\u800c\u65f6\u4e60\u4e4b\uff0c", "\u4e0d\u4ea6\u8bf4\u4e4e\u3002"), k=60)
    if rng.random() < SHARE_BRACKETS:
        _sprinkle(rng, rng.choice(texts), ["[1]", "a[i]", "<b>", "<"], 10)
    if rng.random() < SHARE_ESCAPES:
        _sprinkle(rng, rng.choice(texts), ["\\\\alpha", "\\beta", "\\(x\\)", "\tx"], 20)
    said = [" ".join(words) for words in texts]
    row = {
        "prompt": said[0],
        "prompt_id": sha256(said[0].encode()).hexdigest(),
        "messages": [
            {"content": text, "role": role} for text, role in zip(said, ("user", "assistant") * turns, strict=True)
        ],
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _sprinkle(rng: random.Random, words: list[str], others: list[str], mean: float) -> None:
    """Put some of the other words in the place of some of these."""
    for at in rng.choices(range(len(words)), k=1 + int(rng.expovariate(1 / mean))):
        words[at] = rng.choice(others)


def json_loads(path: Path) -> int:
    """Parse each line and do nothing with it."""
    with path.open("rb") as file:
        return sum(1 for line in file if json.loads(line))


def typed_decode(path: Path) -> int:
    """Decode each line into typed structs."""
    import msgspec

    from penala.conversations.files import read_pieces

    class Message(msgspec.Struct, gc=False):
        role: Literal["system", "user", "assistant"]
        content: str

    class Row(msgspec.Struct, gc=False):
        messages: list[Message]
        prompt: str
        prompt_id: str

    decode = msgspec.json.Decoder(Row).decode_lines
    rows = 0
    for block in read_pieces(path, frozenset()):
        assert isinstance(block, bytes)
        rows += len(decode(block))
    return rows


def check_on_one_core(path: Path) -> int:
    """Check every rule on every row."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    return check_on_all_cores(path)


def check_on_all_cores(path: Path) -> int:
    """Check every rule on every row."""
    from penala.conversations.check import check

    return check(path).good


def load_dataset(path: Path) -> int:
    """Let datasets read the file into Arrow; its cache is empty."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        return len(datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache))


CONTESTANTS: dict[str, Callable[[Path], int]] = {
    "json.loads": json_loads,
    "typed decode": typed_decode,
    "all rules, one core": check_on_one_core,
    "all rules, all cores": check_on_all_cores,
    "datasets.load_dataset": load_dataset,
}


NEEDS = {
    "typed decode": ["msgspec", "penala.conversations.files"],
    "all rules, one core": ["penala.conversations.check", "numpy"],
    "all rules, all cores": ["penala.conversations.check", "numpy"],
    "datasets.load_dataset": ["datasets"],
}


def work(contestant: str, path: Path) -> None:
    """Run one contestant, whose libraries are imported before; print what was seen as one line of JSON."""
    for module in NEEDS.get(contestant, []):
        importlib.import_module(module)
    started = time.perf_counter()
    rows = CONTESTANTS[contestant](path)
    seconds = time.perf_counter() - started
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_bytes": peak}))


def compare(path: Path, rounds: int, contestants: list[str]) -> None:
    """Let the contestants take turns and print the table."""
    runs = take_turns(__file__, contestants, rounds, "--file", str(path), environment={"HF_HUB_OFFLINE": "1"})
    size = path.stat().st_size
    base = statistics.median(run["seconds"] for run in runs["json.loads"])
    print(f"{size / 1e6:,.0f} MB, {runs['json.loads'][0]['rows']:,} rows")
    print(f"{'':30}{'s':>8}{'MB/s':>8}{'x json.loads':>14}{'peak MB':>10}")
    for contestant, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        peak = max(run["peak_bytes"] for run in found) / 1e6
        print(f"{contestant:30}{seconds:8.2f}{size / 1e6 / seconds:8.0f}{base / seconds:14.2f}{peak:10.0f}")


def main() -> None:
    """Parse, then compare or work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="a JSONL file; unset: one is made")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=CONTESTANTS, help="beside json.loads; may be repeated")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    contestants = ["json.loads", *(name for name in arguments.only or CONTESTANTS if name != "json.loads")]
    if arguments.worker:
        work(arguments.worker, arguments.file)
    elif arguments.file:
        compare(arguments.file, arguments.rounds, contestants)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            write_rows(path, arguments.megabytes * 1_000_000)
            compare(path, arguments.rounds, contestants)


if __name__ == "__main__":
    main()
