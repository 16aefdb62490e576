"""Ids and characters: what each token stands for, and what is text and no token."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from penala.errors import TokensError
from penala.tokens import encoding
from penala.tokens.encoding import BORDER, ApartEncoder, Encoded, Encoder

TEXT = "<|im_start|>user\n What  is 咖啡?\n\n<|im_end|>\n<|im_start|>assistant\n☕🏽 e\u0301 </s>[INST]<start_of_turn>"


@pytest.fixture(params=["smollm2", "chatml", "llama-2", "gemma"])
def encoder(request, folder_of):
    """One tokenizer of each kind."""
    return Encoder(folder_of(request.param) / "tokenizer.json")


def test_without_spellings_nothing_is_different(encoder):
    """The tokenizer of aliases gives the ids and the characters of the model's own."""
    assert ApartEncoder(encoder, encoder.special).encode(TEXT, ()) == encoder.encode(TEXT)


def test_a_spelled_token_is_text_and_the_others_stay(encoder):
    """Of two tokens with one spelling, the one that is said to be text is not a token; together they are the text."""
    token = sorted(encoder.special)[-1]
    text = f"{token}kaya {token} x"

    encoded = ApartEncoder(encoder, encoder.special).encode(text, [len(token) + 5])

    assert encoded.ids.count(encoder.added[token]) == 1
    assert encoded.ids[0] == encoder.added[token]
    assert "".join(encoded.texts(text)) == text


def test_a_model_that_cannot_be_shared_is_read_again(encoder, monkeypatch):
    """What may not stand in the shared model goes by another name in a table of its own, and the ids are the same."""
    token = sorted(encoder.special)[-1]
    text = f"{token}{TEXT}{token}\n\nkaya"
    shared = ApartEncoder(encoder, encoder.special)
    monkeypatch.setattr(encoding, "_sharing", lambda tokenizer, aliases: None)
    apart = ApartEncoder(encoder, encoder.special)

    for spelled in ((), [0], [len(token) + len(TEXT)]):
        assert shared.encode(text, spelled, [len(text) - 5]) == apart.encode(text, spelled, [len(text) - 5])


@pytest.mark.parametrize("why", ["merges", "gap", "unigram"])
def test_a_model_is_not_shared_where_a_spelling_could_become_a_token(why):
    """Merges that write one, ids that the added tokens would take, and models of other kinds are left alone."""
    words = {"<": 0, "x": 1, ">": 2, "<x": 3, "<x>": 4}
    if why == "gap":
        words = {"<": 0, "x": 1, ">": 3}
    merges = [("<", "x"), ("<x", ">")] if why == "merges" else []
    model = models.Unigram([(word, 0.0) for word in words]) if why == "unigram" else models.BPE(words, merges)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken("<x>", normalized=False)])

    assert encoding._sharing(tokenizer, {"<x>": "\U0010fffc"}) is None


def test_no_token_crosses_a_border(folder_of):
    """Two newlines are one token, but not across a border."""
    encoder = Encoder(folder_of("chatml") / "tokenizer.json")
    text = "assistant\n\nkaya"
    assert any(start < 10 < end for start, end in zip(*_spans(encoder.encode(text)), strict=True))

    apart = ApartEncoder(encoder, encoder.special).encode(text, (), [10])

    assert not any(start < 10 < end for start, end in zip(*_spans(apart), strict=True))
    assert "".join(apart.texts(text)) == text


def _spans(encoded):
    return encoded.starts, encoded.ends


def test_a_character_over_several_tokens_stands_at_the_last():
    """The tokens before it have no text of their own; what no token holds goes to the next."""
    encoded = Encoded(ids=[1, 2, 3, 4], starts=[0, 1, 1, 3], ends=[1, 2, 2, 4])

    assert encoded.texts("a☕ b!") == ["a", "", "☕", " b!"]
    assert Encoded([], [], []).texts("") == []


def test_reserved_characters_are_refused_where_they_would_be_mistaken(encoder):
    """The last private-use characters stand for special tokens, so a text that needs them cannot hold one."""
    with pytest.raises(TokensError, match=r"U\+10FFFD, which is reserved"):
        ApartEncoder(encoder, encoder.special).encode(chr(BORDER), ())


@pytest.mark.parametrize("name", ["llama-2", "first", "always", "gemma", "chatml", "smollm2"])
def test_what_follows_a_border_says_what_it_said(folder_of, tmp_path, name):
    """SentencePiece puts a space before every stretch of text; behind a border there is none that was not written."""
    path = folder_of(name if name not in ("first", "always") else "gemma") / "tokenizer.json"
    if name in ("first", "always"):
        spaced = Tokenizer.from_file(str(path))
        spaced.normalizer, spaced.pre_tokenizer = None, pre_tokenizers.Metaspace(prepend_scheme=name, split=False)
        path = tmp_path / "tokenizer.json"
        spaced.save(str(path))
    encoder = Encoder(path)
    text = "What is[/INST](kaya) and\n\ntea"
    plain = encoder.encode(text)

    for at in (14, 15, 26):
        apart = ApartEncoder(encoder, encoder.special).encode(text, (), [at])

        assert not any(start < at < end for start, end in zip(*_spans(apart), strict=True))
        assert encoder.tokenizer.decode(apart.ids) == encoder.tokenizer.decode(plain.ids)
        assert "".join(apart.texts(text)) == text


def test_a_tokenizer_that_loses_its_special_tokens_is_refused(folder_of, tmp_path):
    """Where special tokens are sought in normalised text, a space is sought before them; no token may go in silence."""
    stored = json.loads((folder_of("llama-2") / "tokenizer.json").read_text())
    for token in stored["added_tokens"]:
        token["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    encoder = Encoder(tmp_path / "tokenizer.json")

    with pytest.raises(TokensError, match="cannot keep its special tokens apart from text that spells them"):
        ApartEncoder(encoder, encoder.special).encode("kaya</s>x</s>", [9])


def test_a_missing_and_a_broken_tokenizer_are_named(tmp_path):
    """The error says which file, and how to get it."""
    with pytest.raises(TokensError, match=r"there is no tokenizer.json; save the tokenizer"):
        Encoder(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokensError, match=r"tokenizer.json: is no tokenizer that can be read"):
        Encoder(tmp_path / "tokenizer.json")


def test_a_token_that_merges_make_too_is_kept_apart(tmp_path):
    """Where the model's own merges write a special token, its spelling is text all the same, in smaller pieces."""
    words = {"<": 0, "x": 1, ">": 2, "<x": 3, "<x>": 4, "<x>x": 5}
    tokenizer = Tokenizer(models.BPE(words, [("<", "x"), ("<x", ">"), ("<x>", "x")]))
    tokenizer.add_special_tokens([AddedToken("<x>", normalized=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path / "tokenizer.json")

    encoded = ApartEncoder(encoder, encoder.special).encode("<x>x<x>x", [4])

    assert encoded.ids == [4, 1, 3, 2, 1]


def test_a_border_begins_no_text_where_the_tokenizer_puts_a_space_first(folder_of, tmp_path):
    """GPT-2's kind may put a space before what follows a special token: there, and not behind a border."""
    tokenizer = Tokenizer.from_file(str(folder_of("smollm2") / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path / "tokenizer.json")
    apart = ApartEncoder(encoder, encoder.special)

    for text in (TEXT, f" {TEXT}", f"  {TEXT}\n  x", "<|im_end|>  kaya", "\nkaya"):
        assert apart.encode(text, ()) == encoder.encode(text)
    encoded = apart.encode("<|im_start|>\nkaya", (), [13])
    tokens = [tokenizer.id_to_token(id_) for id_ in encoded.ids]
    assert "".join(tokens) == "<|im_start|>ĠĊkaya"
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == "<|im_start|> \nkaya"
    assert "".join(encoded.texts("<|im_start|>\nkaya")) == "<|im_start|>\nkaya"
