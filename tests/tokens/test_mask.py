"""The proof of the mask finds what a broken mask would train, and the view shows the mask."""

from dataclasses import replace

import pytest

from penala.errors import TokensError
from penala.tokens.labels import NO_LOSS
from penala.tokens.mask import prove
from penala.tokens.view import token_view


@pytest.fixture
def row(conversation):
    return conversation(
        ("system", "Brief."), ("user", "Kaya?"), ("assistant", "Jam."), ("user", "And"), ("assistant", "Tea.")
    )


@pytest.fixture
def tokens(tokenizer_of, row):
    return tokenizer_of("chatml").training_tokens(row)


def test_a_right_mask_is_proved(tokenizer_of, tokens):
    """Nothing is raised for the mask that training uses."""
    prove(tokenizer_of("chatml"), tokens)


@pytest.mark.parametrize("which", ["first user", "header"])
def test_a_foreign_token_is_found(tokenizer_of, tokens, which):
    """A supervised token of a user or of a header is named with its row."""
    character = tokens.text.index("Kaya" if which == "first user" else "assistant")
    n = next(n for n, end in enumerate(tokens.encoded.ends) if end > character)
    labels = list(tokens.labels)
    labels[n] = tokens.ids[n]

    with pytest.raises(TokensError, match=r"rows.jsonl:7: 2 assistant turns have 3 runs"):
        prove(tokenizer_of("chatml"), replace(tokens, labels=labels))


def test_a_mask_that_runs_on_into_another_message_is_found(tokenizer_of, tokens):
    """A mask that begins too early, ends too early or shifts by one is named by its first wrong token."""
    tokenizer, labels = tokenizer_of("chatml"), tokens.labels
    first = next(n for n, label in enumerate(labels) if label != NO_LOSS)
    end = next(n for n, label in enumerate(labels) if label in tokenizer.end_ids)

    early = [tokens.ids[n] if n == first - 1 else label for n, label in enumerate(labels)]
    with pytest.raises(TokensError, match=rf"token {first - 1} \('Ċ', \d+\) is supervised and belongs to the prompt"):
        prove(tokenizer, replace(tokens, labels=early))
    short = [NO_LOSS if n == end else label for n, label in enumerate(labels)]
    with pytest.raises(TokensError, match=r"is the last one supervised in messages\[2\] and ends no turn"):
        prove(tokenizer, replace(tokens, labels=short))
    shifted = [*labels[1:], NO_LOSS]
    with pytest.raises(TokensError, match="is trained as another token"):
        prove(tokenizer, replace(tokens, labels=shifted))
    user = (tokens.encoded.starts[first], tokens.encoded.ends[first])
    with pytest.raises(TokensError, match="is supervised and belongs to another message"):
        prove(tokenizer, replace(tokens, others=(user,)))


def test_a_reply_without_its_first_word_is_found(tokenizer_of, tokens):
    """A run that begins late, or with a word of the template, is named: the text between is the template's or lost."""
    tokenizer, labels = tokenizer_of("chatml"), list(tokens.labels)
    first = next(n for n, label in enumerate(labels) if label != NO_LOSS)

    late = [NO_LOSS if n == first else label for n, label in enumerate(labels)]
    with pytest.raises(TokensError, match=r"is the first one supervised in messages\[2\] and comes behind 'J'"):
        prove(tokenizer, replace(tokens, labels=late))
    early = [tokens.ids[n] if n in (first - 1, first - 2) else label for n, label in enumerate(labels)]
    unknown = tuple(replace(turn, prompt_end=None) for turn in tokens.turns)
    with pytest.raises(TokensError, match="is supervised and holds a word of the chat template"):
        prove(tokenizer, replace(tokens, labels=early, turns=unknown))


def test_an_end_that_stands_elsewhere_is_no_end(tokenizer_of, tokens):
    """Each run ends with its own turn's end, not with any token that could end one."""
    last = replace(tokens.turns[1], end_token=tokens.turns[1].end_token - 1)

    with pytest.raises(TokensError, match=r"is the last one supervised in messages\[4\] and ends no turn"):
        prove(tokenizer_of("chatml"), replace(tokens, turns=(tokens.turns[0], last)))


def test_a_row_without_a_supervised_token_is_found(tokenizer_of, conversation, tokens):
    """Such a row would train as loss 0 or NaN."""
    tokenizer = tokenizer_of("chatml")
    with pytest.raises(TokensError, match=r"rows.jsonl:7: no token is supervised; a row needs an assistant message"):
        prove(tokenizer, tokenizer.training_tokens(conversation(("user", "Hi"))))
    with pytest.raises(TokensError, match="ids have 0 labels"):
        prove(tokenizer, replace(tokens, labels=[]))


def test_the_view_is_the_training_row(tokenizer_of, row, tokens):
    """Ids, texts that join to the rendering, and the mask, one entry a token."""
    view = token_view(tokenizer_of("chatml"), row)

    assert [entry["id"] for entry in view] == tokens.ids
    assert "".join(entry["text"] for entry in view) == tokens.text
    assert "".join(entry["text"] for entry in view if entry["supervised"]) == "Jam.<|im_end|>Tea.<|im_end|>"


def test_a_split_character_stands_at_its_last_token(tokenizer_of, conversation):
    """The tokens before the last one of a character have no text."""
    view = token_view(tokenizer_of("chatml"), conversation(("user", "Hi"), ("assistant", "☕!")))

    texts = [entry["text"] for entry in view if entry["supervised"]]
    assert texts[-3:] == ["☕", "!", "<|im_end|>"]
    assert set(texts[:-3]) == {""}
