"""What training leaves: the merged model, the adapter in PEFT's format, and what it was told."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from penala.basemodel.folder import link, model_files, weight_files
from penala.errors import TrainingError
from penala.tokens.lock import FILE as LOCK
from penala.training.model import Model, StoredWeights
from penala.training.settings import FinetuneSettings

ADAPTER_FOLDER = "peft_adapter_weights"


def write_model(base: Path, prepared: Path, out: Path, model: Model, settings: FinetuneSettings) -> None:
    """Write the merged model, tokenizer, adapter, template lock and settings into `out`.

    Raises TrainingError when the disk does not take them; the checkpoints stay, so a second try starts from there.
    """
    try:
        _write(base, prepared, out, model, settings)
    except (OSError, SafetensorError) as error:
        what = f"the tuned model cannot be written: {getattr(error, 'strerror', None) or error}"
        fix = "make room on the disk and run the same command again: it goes on from the last checkpoint"
        raise TrainingError(what, where=str(out), fix=fix) from None


def _write(base: Path, prepared: Path, out: Path, model: Model, settings: FinetuneSettings) -> None:
    shards = {file.name for file in weight_files(base)}
    for name in model_files(base):
        if name not in shards:
            (out / name).unlink(missing_ok=True)
            link(base / name, out / name)
    for name in sorted(shards):
        _write_shard(base, name, out, model)
    if settings.apply_lora:
        _write_adapter(base, out / ADAPTER_FOLDER, model, settings)
    if (prepared / LOCK).is_file():
        for folder in (out, out / ADAPTER_FOLDER) if settings.apply_lora else (out,):
            (folder / LOCK).write_bytes((prepared / LOCK).read_bytes())
    _write_json(out / "finetune_args.json", asdict(settings))


def _write_shard(base: Path, name: str, out: Path, model: Model) -> None:
    stored = StoredWeights(base)
    tensors = {tensor: stored(tensor) for tensor in stored.in_file(name)}
    tensors |= {tensor: model.tuned(tensor, tensors[tensor]) for tensor in tensors.keys() & model.adapted}
    save_file({tensor: tensors[tensor].contiguous() for tensor in tensors}, out / name, metadata={"format": "pt"})


def _write_adapter(base: Path, folder: Path, model: Model, settings: FinetuneSettings) -> None:
    folder.mkdir(exist_ok=True)
    tensors = {name: parameter.detach().contiguous() for name, parameter in model.adapter.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": _base_name(base),
        "r": settings.lora_r,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "bias": "none",
        "target_modules": sorted({name.removesuffix(".weight").rpartition(".")[2] for name in model.adapted}),
        "inference_mode": True,
    }
    _write_json(folder / "adapter_config.json", config)


def _base_name(base: Path) -> str | None:
    selector = base / "model_selector_args.json"
    if not selector.is_file():
        return None
    about: dict[str, Any] = json.loads(selector.read_text(encoding="utf-8"))
    return about.get("model_name")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
