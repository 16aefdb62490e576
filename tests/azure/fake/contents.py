"""What the fake's registry holds, and conversations to tune with."""

import json
from pathlib import Path
from typing import Any

from penala.inputs import PIPELINE, component_spec

A100 = "Standard_NC24ads_A100_v4"
V100 = "Standard_ND40rs_v2"
CPU = "Standard_E4s_v3"
DEFAULTS = {
    "apply_deepspeed": "true",
    "deepspeed_stage": 2,
    "apply_lora": "true",
    "apply_ort": "false",
    "precision": 16,
    "ignore_mismatched_sizes": "false",
    "num_train_epochs": 1,
    "learning_rate": "5e-6",
    "lr_scheduler_type": "cosine",
    "logging_strategy": "steps",
    "logging_steps": 10,
    "save_total_limit": 1,
}
SIZES = [
    {"name": name, "family": family, "gpus": gpus, "vCPUs": cores, "supportedComputeTypes": ["AmlCompute"]}
    for name, family, gpus, cores in (
        (A100, "standardNCADSA100v4Family", 1, 24),
        (V100, "standardNDv2Family", 8, 40),
        (CPU, "standardESv3Family", 0, 4),
    )
]
USAGES = [{"name": {"value": "standardNCADSA100v4Family"}, "currentValue": 0, "limit": 48, "unit": "Count"}]


def registry_model(
    tags: dict[str, str] | None = None, properties: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the REST properties of a version of a base model."""
    plain = {"modelUri": "azureml://registries/azureml/models/x", "modelType": "mlflow_model", "flavors": {}}
    return plain | {"tags": tags or {}, "properties": properties or {}, "isArchived": False} | more


def allowed(size: str) -> dict[str, str]:
    """Return the tags that allow tuning and deployment on one size, as Azure writes them."""
    return {f"{purpose}_compute_allow_list": str([size]) for purpose in ("finetune", "inference")}


def azures_pipeline() -> dict[str, Any]:
    """Return the registry's chat_completion_pipeline: the 69 inputs that our own one repeats, and its outputs."""
    ours = component_spec(PIPELINE)
    names = list(ours["inputs"])
    inputs = {name: ours["inputs"][name] for name in names[: names.index("catalogue_model")]}
    outputs = {name: ours["outputs"][name] for name in ("pytorch_model_folder", "mlflow_model_folder")}
    spec = {"type": "pipeline", "name": PIPELINE, "version": "0.0.82", "inputs": inputs, "outputs": outputs}
    return {"componentSpec": spec | {"jobs": {}}, "isAnonymous": False, "tags": {}, "properties": {}}


def write_conversations(path: Path, rows: int = 12) -> Path:
    """Write rows of two messages each."""
    messages = [{"role": "user", "content": "Kopi kosong?"}, {"role": "assistant", "content": "No sugar, no milk."}]
    lines = [json.dumps({"prompt": f"p{n}", "messages": messages, "prompt_id": str(n)}) for n in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
