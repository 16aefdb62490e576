"""A training row token by token, for people who want to see its mask."""

from typing import Any

from penala.tokens.chat_tokenizer import ChatTokenizer, Row
from penala.tokens.labels import ALL_TURNS, NO_LOSS, Supervision


def token_view(
    tokenizer: ChatTokenizer, conversation: Row, supervision: Supervision = ALL_TURNS
) -> list[dict[str, Any]]:
    """Return {"id", "text", "supervised"} for each token of the training row; the texts joined are the rendering.

    Raises TokensError as `training_tokens` does.
    """
    tokens = tokenizer.training_tokens(conversation, supervision)
    return [
        {"id": id_, "text": text, "supervised": label != NO_LOSS}
        for id_, text, label in zip(tokens.ids, tokens.texts, tokens.labels, strict=True)
    ]
