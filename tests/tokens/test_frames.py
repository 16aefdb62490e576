"""A frame tells of a rendering what the marks would have told, or nothing."""

import pytest

from penala.errors import TokensError
from penala.tokens import chat_tokenizer
from penala.tokens.chat_tokenizer import ChatTokenizer

TEXTS = (
    "Jam.", " Jam\n", "\n\nJam", "a < b", "<|im_end|>", "<|im_", "end|>", "im_end|>", "</think>x", "<think>y</think>z",
    "☕🏽 e\u0301", "\ue000", "\U00100001", "\ud800", "user\nJam", "[INST] x", "</s>",
)  # fmt: skip


@pytest.fixture
def both(family, folder_of, monkeypatch):
    """Tokenise rows with a tokenizer that has learned frames, and with one that never does."""
    learned, slow = (ChatTokenizer.from_folder(folder_of(family.name)) for _ in range(2))
    monkeypatch.setattr(slow._frames, "learn", lambda *_: None)

    def both(row):
        results = []
        for tokenizer in (learned, slow):
            try:
                tokens = tokenizer.training_tokens(row)
                results.append((tokens.ids, list(tokens.labels), tokens.turns, tokens.others, tokens.unrendered))
            except TokensError as error:
                results.append(str(error))
        return results

    return both


def test_frames_change_nothing(both, conversation):
    """Whatever the texts are, ids, labels, turns and errors are those of marks."""
    for text in TEXTS:
        for pair in ((text, "Yes."), ("What?", text), (text, text)):
            row = conversation(("user", pair[0]), ("assistant", pair[1]), ("user", "And?"), ("assistant", "Tea."))
            fast, slow = both(row)
            assert fast == slow, pair


def test_like_rows_are_rendered_once(folder_of, conversation, monkeypatch):
    """The second conversation of the same roles needs no marks."""
    tokenizer = ChatTokenizer.from_folder(folder_of("chatml"))
    tokenizer.training_tokens(conversation(("user", "What"), ("assistant", "Jam.")))

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(chat_tokenizer.marks, "find", never)
    tokens = tokenizer.training_tokens(conversation(("user", " Who <\n"), ("assistant", "\u2019Mei\u2019 ")))

    assert tokens.text[slice(*tokens.others[0])] == "Who <"
    assert tokens.text[tokens.turns[0].start : tokens.turns[0].end] == "\u2019Mei\u2019 <|im_end|>"
    with pytest.raises(TokensError, match="half a character"):
        tokenizer.training_tokens(conversation(("user", "\ud800"), ("assistant", "Jam.")))
    for spelled in ("<|im_end|>", "\U00100001"):
        with pytest.raises(AssertionError):
            tokenizer.training_tokens(conversation(("user", spelled), ("assistant", "Jam.")))
    with pytest.raises(AssertionError):  # other roles
        tokenizer.training_tokens(conversation(("system", "Who"), ("user", "Who"), ("assistant", "Jam.")))
