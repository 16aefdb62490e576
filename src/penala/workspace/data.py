"""What `penala data` asks of the stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penala.errors import UsageError

if TYPE_CHECKING:
    from penala.conversations.check import Check


def check_data(paths: list[str], schema: str, columns: Mapping[str, str]) -> "Check":
    """Check every conversation of `paths`, keeping none."""
    from penala.conversations.check import check

    return check(paths, schema=schema, columns=columns, keep=False)


def row_tokens(path: Path, row: int, model: str, cache: Path) -> list[dict[str, Any]]:
    """Return {"id", "text", "supervised"} of each token of the training row that record `row` (from 1) becomes.

    `model` is what a recipe's base_model takes; its weights are fetched into `cache` when they are not there.
    """
    from penala.basemodel.catalogue import resolve
    from penala.basemodel.sources import obtain
    from penala.conversations.check import check
    from penala.tokens.chat_tokenizer import ChatTokenizer
    from penala.tokens.view import token_view

    checked = check([path])
    conversation = next((one for one in checked.conversations if one.row == row), None)
    if conversation is None:
        if 1 <= row <= checked.rows:
            fix = f"`penala data check {path}` says what is wrong with it"
            raise UsageError(f"record {row} is no good conversation", where=str(path), fix=fix)
        raise UsageError(f"there is no record {row}", where=str(path), fix=f"it has {checked.rows}")
    folder = obtain(resolve(model), cache, lambda event: None)
    return token_view(ChatTokenizer.from_folder(folder), conversation)
