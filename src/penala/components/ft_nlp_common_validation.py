"""Check every conversation of every split, and write what was found."""

import json
from pathlib import Path
from typing import Any

from penala.components.entry import Report, run
from penala.conversations.check import check, require


def body(arguments: dict[str, Any], report: Report) -> None:
    columns = json.loads(arguments["column_mapping"] or "{}")
    found = {}
    for split in ("train", "validation", "test"):
        if (path := arguments[f"{split}_file_path"]) is None:
            continue
        checked = check([path], schema=arguments["conversation_schema"], columns=columns)
        require(checked, split=split, on_bad_row=arguments["on_bad_row"])
        report({"event": "note", "text": f"{split}: {checked.rows} rows, {checked.good} good, {checked.bad} bad"})
        found[split] = {"rows": checked.rows, "good": checked.good, "bad": checked.bad}
    output: Path = arguments["validation_info"]
    output.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run("ft_nlp_common_validation", body)
