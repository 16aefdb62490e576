"""Text out of users' data, made fit to be shown: it cannot move a cursor, hide, or turn a line around.

A terminal obeys control characters, and readers are misled by marks of direction. Such characters are written as
Python writes them (\\x1b, \\u202e). Line feeds and tabs stay, and so do the joiners that scripts and emoji need.
"""

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPACES = re.compile(r"\s+")


def visible(text: str) -> str:
    """Return the text with its hidden characters spelled out."""
    return _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


def excerpt(text: str, width: int = 80) -> str:
    """Return the beginning of a text as one visible line of at most `width` characters."""
    line = visible(_SPACES.sub(" ", text[: 2 * width]).strip())
    return line if len(line) <= width and len(text) <= 2 * width else line[: width - 3] + "..."
