"""Bring the base model into one plain model folder."""

import os
from pathlib import Path
from typing import Any

from penala.basemodel.importing import import_model
from penala.components.entry import Report, run
from penala.errors import ModelError


def body(arguments: dict[str, Any], report: Report) -> None:
    # Azure's precedence among its three; a name of the catalogue is ours and comes last
    order = ("pytorch_model_path", "mlflow_model_path", "huggingface_id", "catalogue_model")
    source = next((arguments[name] for name in order if arguments[name] is not None), None)
    if source is None:
        raise ModelError("no base model is given", fix=f"set one of {', '.join(order)}")
    cache = Path(os.environ.get("PENALA_CACHE") or Path.home() / ".cache" / "penala")
    import_model(source, arguments["output_dir"], cache=cache, report=report)


if __name__ == "__main__":
    run("chat_completion_model_import", body)
