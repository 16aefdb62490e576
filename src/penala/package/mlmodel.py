"""The documents of an MLflow model folder: MLmodel, what it needs installed, its signature and an example.

They are written as text, without importing MLflow (which takes seconds), and hold neither a time nor a run: the same
model gives the same bytes. The tests read them with MLflow itself.
"""

import json
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import yaml

LOADER = "penala_chat_model"  # code/penala_chat_model.py, a copy of weights.py
# what a package's loader imports, directly or through transformers
REQUIREMENTS = ("mlflow", "torch", "transformers", "tokenizers", "safetensors", "jinja2")
# Azure's no-code scoring script imports it, and a model whose conda.yaml lacks it does not start there
FOR_AZURE = "azureml-ai-monitoring~=1.0"
NO_TIME = "1970-01-01 00:00:00.000000"
EXAMPLE = {"messages": [{"role": "user", "content": "Hello! What can you do?"}], "max_tokens": 64}

_TEXT = {"type": "string", "required": True}
_MESSAGE = {"type": "object", "properties": {"role": _TEXT, "content": _TEXT}}
_ASKED = {
    "type": "object",
    "properties": {"role": _TEXT, "content": _TEXT, "name": {"type": "string", "required": False}},
}
_INPUTS = [
    {"name": "messages", "type": "array", "items": _ASKED, "required": True},
    {"name": "temperature", "type": "double", "required": False},
    {"name": "top_p", "type": "double", "required": False},
    {"name": "max_tokens", "type": "long", "required": False},
    {"name": "stop", "type": "array", "items": {"type": "string"}, "required": False},
    {"name": "seed", "type": "long", "required": False},
]
_CHOICE = {
    "type": "object",
    "properties": {
        "index": {"type": "long", "required": True},
        "message": _MESSAGE | {"required": True},
        "finish_reason": _TEXT,
    },
}
_USAGE = {name: {"type": "long", "required": True} for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
_OUTPUTS = [
    {"name": "id", "type": "string", "required": True},
    {"name": "object", "type": "string", "required": True},
    {"name": "created", "type": "long", "required": True},
    {"name": "model", "type": "string", "required": True},
    {"name": "choices", "type": "array", "items": _CHOICE, "required": True},
    {"name": "usage", "type": "object", "properties": _USAGE, "required": True},
]


def documents(config: Mapping[str, Any], metadata: Mapping[str, Any], *, digest: str, size: int) -> dict[str, str]:
    """Return file name -> text for the top of the folder.

    `config` is the model's config.json, `metadata` goes into MLmodel, `digest` (hex) stands for all that was packaged,
    and `size` is its bytes.
    """
    example = json.dumps(EXAMPLE, ensure_ascii=False)
    return {
        "MLmodel": yaml.safe_dump(_mlmodel(config, metadata, digest, size), sort_keys=True),
        "requirements.txt": "\n".join(requirements()) + "\n",
        "conda.yaml": yaml.safe_dump(_conda(), sort_keys=False),
        "python_env.yaml": yaml.safe_dump(_python_env(), sort_keys=False),
        "input_example.json": example + "\n",
        "serving_input_example.json": example + "\n",
    }


def requirements() -> list[str]:
    """Return the pinned requirements, with the versions installed here; a local suffix such as +cpu is left out."""
    return [f"{name}=={re.sub(r'[+].*', '', version(name))}" for name in REQUIREMENTS]


def _mlmodel(config: Mapping[str, Any], metadata: Mapping[str, Any], digest: str, size: int) -> dict[str, Any]:
    return {
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "code": "code",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "python_version": platform.python_version(),
                "streamable": False,
            },
            "transformers": {
                "task": "text-generation",
                "instance_type": "TextGenerationPipeline",
                "pipeline_model_type": config["architectures"][0],
                "model_binary": "model",
                "source_model_name": metadata.get("base_model_name", ""),
                "components": ["tokenizer"],
                "tokenizer_type": "AutoTokenizer",
                "torch_dtype": f"torch.{config.get('dtype') or config.get('torch_dtype') or 'float32'}",
                "transformers_version": version("transformers"),
                "code": "code",
            },
        },
        "is_signature_from_type_hint": False,
        "metadata": dict(metadata),
        "mlflow_version": version("mlflow"),
        "model_size_bytes": size,
        "model_uuid": digest[:32],
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        "signature": {"inputs": json.dumps(_INPUTS), "outputs": json.dumps(_OUTPUTS), "params": None},
        "type_hint_from_example": False,
        "utc_time_created": NO_TIME,
    }


def _conda() -> dict[str, Any]:
    pip = [*requirements(), FOR_AZURE]
    python = f"python={platform.python_version()}"
    return {"name": "penala", "channels": ["conda-forge"], "dependencies": [python, "pip", {"pip": pip}]}


def _python_env() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": ["-r requirements.txt"],
    }
