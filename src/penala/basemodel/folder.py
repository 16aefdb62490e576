"""A plain model folder: what makes one, what is wrong with it, and how many parameters it holds, without loading it.

config.json  generation_config.json  model.safetensors (or shards with an index)
tokenizer.json  tokenizer_config.json  chat_template.jinja (or inside tokenizer_config.json)  LICENSE
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penala.errors import ModelError

INDEX = "model.safetensors.index.json"
# what is taken over from a model's folder or repository; everything else (pickles, code, other formats) stays behind
PATTERNS = (
    "config.json",
    "generation_config.json",
    "finetune_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_IN_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.\d+\.(?:.+\.)?(?P<linear>[^.]+)\.weight$")
_ROUTERS = frozenset({"gate", "router"})  # of mixtures of experts: they choose, LoRA leaves them alone


def model_files(folder: Path) -> list[str]:
    """Return the names, below `folder`, of the files that belong to a model, sorted."""
    return sorted({path.relative_to(folder).as_posix() for pattern in PATTERNS for path in folder.glob(pattern)})


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ModelError that names the file when it is missing or is something else."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.name} is missing", where=str(path.parent)) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read as JSON: {error}", where=str(path)) from None
    if not isinstance(loaded, dict):
        raise ModelError("holds no JSON object", where=str(path))
    return loaded


def check_folder(folder: Path) -> None:
    """Raise ModelError unless `folder` is a plain model folder with whole safetensors; it names what is missing."""
    if not folder.is_dir():
        raise ModelError("there is no such folder", where=str(folder))
    read_json(folder / "config.json")
    if not (folder / "tokenizer.json").is_file():
        fix = "save the tokenizer with transformers' save_pretrained, which writes tokenizer.json"
        raise ModelError("tokenizer.json is missing", where=str(folder), fix=fix)
    for path in weight_files(folder):
        tensors(path)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model. Raises ModelError naming what is missing, or a pickle."""
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise ModelError(f"{', '.join(missing) or 'every shard'} is missing, named by {INDEX}", where=str(folder))
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        fix = "save the model again with safe_serialization=True; penala reads safetensors only"
        raise ModelError(f"{pickles[0]} is a pickle, which can run code when it is loaded", where=str(folder), fix=fix)
    raise ModelError("model.safetensors is missing", where=str(folder), fix=f"or shards with {INDEX}")


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read the header of a safetensors file: tensor name -> (dtype, shape).

    Raises ModelError when the file is cut short or is no safetensors file. Format: 8 bytes of length, JSON, data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ModelError("is cut short or is no safetensors file", where=str(path))
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
            found = {name: (str(tensor["dtype"]), tuple(tensor["shape"])) for name, tensor in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError("is no safetensors file: its header cannot be read", where=str(path)) from None
    if 8 + length + end != size:
        raise ModelError(f"is cut short: {size} bytes of {8 + length + end}", where=str(path), fix="fetch it again")
    return found


def _all_tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in weight_files(folder):
        for name, (_, shape) in tensors(path).items():
            yield name, shape


def count_parameters(folder: Path) -> int:
    """Count the parameters in the weights; tied weights, stored once, count once."""
    return sum(math.prod(shape) for _, shape in _all_tensors(folder))


def linear_layers(folder: Path) -> list[str]:
    """Return the names of the linear layers of a block, such as q_proj: LoRA's "all-linear" for this model."""
    found = {
        match["linear"]
        for name, shape in _all_tensors(folder)
        if len(shape) == 2 and (match := _IN_BLOCK.search(name)) is not None
    }
    return sorted(found - _ROUTERS)


def link(source: Path, target: Path) -> None:
    """Give `source` the second name `target`: a hard link, or a copy across file systems."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copyfile(source, target)
