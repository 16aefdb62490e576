"""Write a tuned model as an MLflow model folder: the weights once, and beside them all that it takes to use them.

MLmodel conda.yaml python_env.yaml requirements.txt input_example.json   how MLflow loads it, mlmodel.py
model/                    plain model folder: weights, config, tokenizer, chat template, template_lock.json
components/tokenizer/     the tokenizer again, where the transformers flavour looks for it
peft_adapter_weights/     the adapter alone, in PEFT's format
code/                     what plain MLflow runs, weights.py
evaluation.json finetune_args.json finetune_config.json LICENSE
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from penala.basemodel.folder import check_folder, link, model_files, read_json
from penala.errors import ModelError, PackageError
from penala.package.mlmodel import LOADER, documents
from penala.tokens.chat_tokenizer import ChatTokenizer, tokenizer_files
from penala.tokens.lock import FILE as LOCK
from penala.tokens.lock import TemplateLock

Report = Callable[[dict[str, Any]], None]

ADAPTER = "peft_adapter_weights"
GENERATION = "generation_config.json"
TASK = "chat-completion"


def write_package(
    tuned: Path, out: Path, *, base: Path | None = None, evaluation: Path | None = None, report: Report
) -> dict[str, Any]:
    """Write the package of the model folder `tuned` into `out` (new or empty); return {"bytes"}.

    `base` is the imported base model, whose name, licence and settings are recorded, `evaluation` what the evaluation
    wrote. A model without a template lock is packaged as a base model. Weights are hard-linked where that is possible.
    Raises PackageError for a folder that is no whole model, TemplateMismatch for another template than the trained one.
    """
    config = _checked(tuned)
    tokenizer = ChatTokenizer.from_folder(tuned)
    locked = (tuned / LOCK).is_file()
    if locked:
        TemplateLock.load(tuned / LOCK).verify(tokenizer)
    model = out / "model"
    model.mkdir(parents=True)
    for name in model_files(tuned):
        if name not in (GENERATION, "finetune_config.json"):
            link(tuned / name, model / name)
    # every id that ends a reply, so that any engine stops where ours does: Phi-3 declares <|endoftext|>, writes <|end|>
    ends = sorted(tokenizer.end_ids)
    generation = read_json(tuned / GENERATION) if (tuned / GENERATION).is_file() else {}
    _write_json(model / GENERATION, generation | {"eos_token_id": ends[0] if len(ends) == 1 else ends})
    if locked:
        link(tuned / LOCK, model / LOCK)
    _write_beside(tuned, base, evaluation, out)
    digest, size = _digest(out)
    for name, text in documents(config, _metadata(base, finetuned=locked), digest=digest, size=size).items():
        (out / name).write_text(text, encoding="utf-8")
    report({"event": "note", "text": f"packaged {size / 1e6:,.0f} MB"})
    return {"bytes": size}


def _checked(tuned: Path) -> dict[str, Any]:
    try:
        check_folder(tuned)
        config = read_json(tuned / "config.json")
    except ModelError as error:
        raise PackageError(error.what, where=error.where, fix=error.fix) from None
    if not config.get("architectures"):
        raise PackageError("config.json names no architectures", where=str(tuned))
    return config


def _write_beside(tuned: Path, base: Path | None, evaluation: Path | None, out: Path) -> None:
    tokenizer = out / "components" / "tokenizer"
    tokenizer.parent.mkdir()
    for name in tokenizer_files(tuned):
        link(tuned / name, tokenizer / name)
    if (tuned / ADAPTER).is_dir():
        for file in sorted((tuned / ADAPTER).iterdir()):
            link(file, out / ADAPTER / file.name)
    (out / "code").mkdir()
    shutil.copyfile(Path(__file__).with_name("weights.py"), out / "code" / f"{LOADER}.py")
    for folder, names in ((tuned, ("finetune_args.json", LOCK)), (evaluation, ("evaluation.json",))):
        for name in names:
            if folder is not None and (folder / name).is_file():
                link(folder / name, out / name)
    for name in ("LICENSE", "finetune_config.json"):
        source = next((folder / name for folder in (base, tuned) if folder and (folder / name).is_file()), None)
        if source is not None:
            link(source, out / name)


def _metadata(base: Path | None, *, finetuned: bool) -> dict[str, Any]:
    """Return what MLmodel says of the model's origin, under the names that Azure's converter gives them."""
    selector = base / "model_selector_args.json" if base else None
    about = read_json(selector) if selector and selector.is_file() else {}
    metadata = {
        "task": "llm/v1/chat",
        "is_finetuned_model": finetuned,
        "base_model_name": about.get("model_name"),
        "base_model_task": about.get("task") or TASK,
        "base_model_asset_id": about.get("model_asset_id"),
        "license": about.get("licence"),
        "penala_version": version("penala"),
    }
    if finetuned:
        metadata["finetuning_task"] = TASK
    return {name: value for name, value in metadata.items() if value is not None}


def _digest(folder: Path) -> tuple[str, int]:
    """Return the digest of all files of a folder, by their paths in it, and their size in bytes."""
    parts, size = [], 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                parts.append([str(path.relative_to(folder)), hashlib.file_digest(file, "sha256").hexdigest()])
            size += path.stat().st_size
    return hashlib.sha256(json.dumps(["package/1", parts]).encode()).hexdigest(), size


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
