"""Turn a GGUF file into a plain model folder: float32 safetensors, config, tokenizer with chat template.

Run as a process of its own, since it imports torch and holds all weights:

    python -m penala.basemodel.convert FILE.gguf FOLDER
"""

import functools
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from penala.basemodel.gguf_metadata import read_chat_metadata
from penala.errors import ModelError

FORMAT = 1  # counts up when the same GGUF gives another folder, so that caches start afresh

# llama.cpp's names of pre-tokenizers that split every digit off first; transformers' reader gives them GPT-2's plain
# one, and then "\n\n1" and "a  1" become other tokens than the model was trained on.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# llama.cpp's names whose pre-tokenizer transformers' reader gets right
AS_READ = frozenset({"gpt-2", "llama-bpe", "qwen2", "default"})


def convert(source: Path, out: Path) -> None:
    """Write the model in the GGUF file `source` into the new folder `out`.

    Raises ModelError when the file is no whole GGUF file, is of an architecture that transformers cannot read, or has
    no chat template.
    """
    import gguf

    metadata = read_chat_metadata(source)
    # transformers reads the file three times, each time with seconds for the vocabulary alone: let it read once
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    out.mkdir(parents=True)
    try:
        _write_weights(source, out)
        _write_tokenizer(source, out, metadata)
    except (ValueError, NotImplementedError, KeyError) as error:
        raise ModelError(f"transformers cannot read it: {error}", where=str(source)) from None


def _write_weights(source: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    # it is quantised no longer, but save_pretrained refuses until nothing says so any more
    model.hf_quantizer, model.is_quantized = None, False
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, whatever the umask
    config = json.loads((out / "config.json").read_text())
    if theta := config.get("rope_parameters", {}).get("rope_theta"):
        config["rope_theta"] = theta  # where readers older than transformers 5 look, which else take 10,000 in silence
    _write(out / "config.json", config)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
    _write(out / "generation_config.json", {"_from_model_config": True, **ends})


def _write_tokenizer(source: Path, out: Path, metadata: dict[str, Any]) -> None:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    backend = tokenizer.backend_tokenizer
    splitter = metadata.get("tokenizer.ggml.pre", "default")
    if splitter in DIGITS_APART:
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    elif splitter not in AS_READ:
        say(f"warning: pre-tokenizer {splitter!r} is not known here; tokens may differ from the original's")
    backend.save(str(out / "tokenizer.json"))
    names = ("bos", "eos", "unknown", "padding")
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names}
    special = {
        f"{short}_token": tokens[ids[name]]
        for name, short in zip(names, ("bos", "eos", "unk", "pad"), strict=True)
        if ids[name] is not None
    }
    settings = {
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata[f"{metadata['general.architecture']}.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": metadata["tokenizer.chat_template"],
    }
    _write(out / "tokenizer_config.json", special | settings)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def say(line: str) -> None:
    """Tell the parent process, which reads stdout and reports each line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Convert argv[1] into the folder argv[2]; an expected failure is one line and exit code 1."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ModelError as error:
        say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
