"""A training row token by token as one HTML page: what is learned, what is only read, what the template writes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penala.conversations.page import page
from penala.tokens.chat_tokenizer import ChatTokenizer

SPACES = {" ": "·", "\n": "↵\n", "\t": "→\t", "\r": "␍", "\u00a0": "⍽"}


def tokens_page(tokenizer: ChatTokenizer, view: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return the page of what `token_view` gave. Each token's id stands in its title attribute."""
    count = sum(token["supervised"] for token in view)
    return page(
        "tokens.html.j2",
        room="penala.tokens",
        title=title,
        tokens=list(_shown(tokenizer, view)),
        total=len(view),
        supervised=count,
        special=sum(_is_special(tokenizer, token) for token in view),
    )


def _shown(tokenizer: ChatTokenizer, view: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, token in enumerate(view):
        kinds = ["s"] * token["supervised"] + ["x"] * _is_special(tokenizer, token)
        words = "supervised" if token["supervised"] else "not supervised"
        yield {
            "title": f"token {number}, id {token['id']}, {tokenizer.token(token['id'])!r}, {words}",
            "kinds": " ".join(kinds),
            "breaks": token["text"][:1] == " ",  # a line may end before it; the dot that stands for it forbids that
            "text": "".join(SPACES.get(character, character) for character in token["text"]) or "▫",
        }


def _is_special(tokenizer: ChatTokenizer, token: Mapping[str, Any]) -> bool:
    """Tell whether a token is one that only the template may write; where a message spells it, it is several others."""
    return tokenizer.token(token["id"]) in tokenizer.habits.controls
