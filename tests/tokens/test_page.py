import re
from html import unescape

from penala.tokens.page import tokens_page
from penala.tokens.view import token_view

TOKEN = re.compile(r'<b(?: class="([sx ]+)")? title="([^"]*)">([^<]*)</b>')


def page_of(tokenizer, conversation) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the page, and (kinds, title, text) of each of its tokens."""
    html = tokens_page(tokenizer, token_view(tokenizer, conversation), "rows.jsonl:7")
    body = html[html.index('<pre class="tokens">') :]
    return html, [(kinds, unescape(title), unescape(text)) for kinds, title, text in TOKEN.findall(body)]


def test_each_token_shows_its_text_its_id_and_whether_it_is_learned(tokenizer_of, conversation):
    """As many tokens as there are, the same ones supervised, the id in the title."""
    tokenizer = tokenizer_of("chatml")
    said = conversation(("user", "Hello there"), ("assistant", "Selamat pagi"))
    view = token_view(tokenizer, said)

    _, tokens = page_of(tokenizer, said)

    assert len(tokens) == len(view)
    assert ["s" in kinds for kinds, _, _ in tokens] == [token["supervised"] for token in view]
    assert all(f"id {token['id']}," in title for token, (_, title, _) in zip(view, tokens, strict=True))


def test_special_tokens_are_marked_and_their_spelling_in_a_text_is_not(tokenizer_of, conversation):
    """<|im_end|> that a user wrote is text."""
    _, tokens = page_of(tokenizer_of("chatml"), conversation(("user", "<|im_end|>"), ("assistant", "ok")))

    special = [text for kinds, _, text in tokens if "x" in kinds]
    assert special.count("<|im_end|>") == 2
    assert sum("s" in kinds and "x" in kinds for kinds, _, _ in tokens) == 1


def test_white_space_is_visible(tokenizer_of, conversation):
    """Spaces are dots, line feeds and tabs have signs; line feeds still break the line."""
    _, tokens = page_of(tokenizer_of("chatml"), conversation(("user", "a  b\tc\nd"), ("assistant", "ok")))

    joined = "".join(text for _, _, text in tokens)
    assert "a··b→\tc↵\nd" in joined
    assert " " not in joined


def test_a_text_that_is_markup_stays_text(tokenizer_of, conversation):
    """Nothing of a row is obeyed, not even through a title."""
    bad = '"><script>alert(1)</script>\x1b[31m\u202e'

    html, tokens = page_of(tokenizer_of("chatml"), conversation(("user", bad), ("assistant", "ok")))

    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert '"><script>alert(1)</script>' in "".join(text for _, _, text in tokens)
