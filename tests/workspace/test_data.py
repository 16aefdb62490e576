import re
import shlex

import pytest

from penala.errors import DataError
from penala.workspace.data import row_tokens


def test_a_row_that_has_no_tokens_names_the_command_that_says_why(tmp_path):
    """With the options that read the file the same way, quoted for a shell; no model is looked up."""
    path = tmp_path / "two words.jsonl"
    path.write_text('{"turns": []}\n')

    with pytest.raises(DataError, match="record 1 is no good conversation") as refused:
        row_tokens(path, 1, "no-such-model", None, schema="messages", columns={"messages": "the turns"})

    (command,) = re.findall("`(.*)`", str(refused.value.fix))
    options = ["--row", "1", "--schema", "messages", "--column", "messages=the turns"]
    assert shlex.split(command) == ["penala", "data", "show", str(path), *options]
