"""Import a base model: one plain model folder with what training and packaging need to know about it.

What comes from the cache is hard-linked. What comes from a folder of the user's is copied: the user may change a file
in place later, and the imported model must stay what it was.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from penala.basemodel.catalogue import Entry, MlflowSource, entry_of
from penala.basemodel.folder import check_folder, count_parameters, linear_layers, link, model_files, read_json
from penala.basemodel.mlflow_layout import metadata, model_name
from penala.basemodel.sources import Report, obtain, origin

SELECTOR = "model_selector_args.json"
FINETUNE_CONFIG = "finetune_config.json"
USED = frozenset({"lora_target_modules"})  # the mask is proved from the template, and needs no chat markers


def import_model(
    source: Entry | Path | str, out: Path, cache: Path, report: Report, config: Path | None = None
) -> dict[str, Any]:
    """Write the imported model into `out` (new or empty) and return {"parameters", "bytes"}.

    `source` is whatever `obtain` takes, `config` a finetune_config.json that wins over the model's own. Raises
    ModelError when it cannot be had or is no whole model.
    """
    entry = entry_of(source)
    folder = obtain(entry, cache, report)
    ours = cache.absolute() in folder.absolute().parents
    out.mkdir(parents=True, exist_ok=True)
    for name in model_files(folder):
        if name == FINETUNE_CONFIG:
            continue
        if ours and not (folder / name).is_symlink():
            link(folder / name, out / name)
        else:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, out / name)
    check_folder(out)
    settings = finetune_config(folder, entry, config)
    for name in settings.keys() - USED:
        report({"event": "note", "text": f"{name} of the model's {FINETUNE_CONFIG} has no effect here"})
    _write(out / FINETUNE_CONFIG, settings)
    selector = _selector(entry, folder)
    _write(out / SELECTOR, selector)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    parameters = selector["parameters"]
    report({"event": "note", "text": f"{selector['model_name']}: {parameters:,} parameters, {size / 1e6:,.0f} MB"})
    return {"parameters": parameters, "bytes": size}


def finetune_config(folder: Path, entry: Entry, given: Path | None = None) -> dict[str, Any]:
    """Return the model's own fine-tuning settings, with `lora_target_modules` = all linear layers where it names none.

    The file `given` wins over the entry of the catalogue, and that over the file beside the weights.
    """
    packaged = folder / FINETUNE_CONFIG
    own = read_json(packaged) if packaged.is_file() else {}
    config: dict[str, Any] = {"lora_target_modules": linear_layers(folder)}
    for settings in (own, entry.finetune_config, read_json(given) if given else {}):
        config |= _of_task(settings, entry.task)
    return config


def _of_task(config: dict[str, Any], task: str) -> dict[str, Any]:
    """Return the settings in Azure's first form, or those of the task in its second, which names tasks."""
    if str(config.get("version")) != "2":
        return config
    by_task = config.get("task_specific_config", {})
    return by_task.get(task) or by_task.get(task.replace("-", "_")) or by_task.get("ChatCompletion") or {}


def _selector(entry: Entry, folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    first = entry.sources[0]
    catalogued = bool(entry.created)
    # without an entry of a catalogue, an MLflow folder tells what it is
    mlflow = Path(first.path) if isinstance(first, MlflowSource) and not catalogued else None
    told = metadata(mlflow) if mlflow else {}
    return {
        "model_name": model_name(mlflow) if mlflow else entry.name,
        "model_version": entry.version if catalogued else None,
        "model_asset_id": entry.id if catalogued else told.get("base_model_asset_id"),
        "task": entry.task,
        "licence": entry.licence or told.get("license"),
        "model_type": config.get("model_type"),
        "parameters": count_parameters(folder),
        "context": config.get("max_position_embeddings"),
        "source": origin(folder),
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
