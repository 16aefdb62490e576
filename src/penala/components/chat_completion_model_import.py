"""Bring the base model into one plain model folder."""

import json
import os
from pathlib import Path
from typing import Any

from penala.basemodel.catalogue import entry_from, entry_of
from penala.basemodel.importing import import_model
from penala.components.entry import Report, run
from penala.errors import ModelError


def body(arguments: dict[str, Any], report: Report) -> None:
    # Azure's precedence among its three; a name of the catalogue is ours and comes last
    order = ("pytorch_model_path", "mlflow_model_path", "huggingface_id", "catalogue_model")
    source = next((arguments[name] for name in order if arguments[name] is not None), None)
    if source is None:
        raise ModelError("no base model is given", fix=f"set one of {', '.join(order)}")
    if (named := arguments["catalogue_model"]) is not None and named.startswith("{"):
        # an entry of the user's own: its record, without the path that came as an input of its own
        path = {} if source is named else entry_of(source).to_dict()
        source = entry_from(path | json.loads(named))
    cache = Path(os.environ.get("PENALA_CACHE") or Path.home() / ".cache" / "penala")
    config = arguments["finetune_config_path"]
    import_model(source, arguments["output_dir"], cache=cache, report=report, config=config)


if __name__ == "__main__":
    run("chat_completion_model_import", body)
