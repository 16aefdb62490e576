"""Where tokens stand, reckoned from their lengths: what the tokenizers library says itself, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from penala.tokens.byte_lengths import ByteLengths, as_numbers

TEXTS = ("", "kaya", " two  spaces\n\n", "咖啡 ☕🏽 e\u0301 \u2019s", "<|im_start|>user\n\n<|im_end|> x", "\0\x04")


@pytest.fixture
def tokenizer(folder_of):
    """A fresh byte-level tokenizer."""
    return Tokenizer.from_file(str(folder_of("chatml") / "tokenizer.json"))


def both(tokenizer, text):
    """Return the places as they are reckoned and as the library tells them."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    places = ByteLengths.of(tokenizer).places(as_numbers(encoding.ids), text)
    return places and [tuple(pair) for pair in zip(*places, strict=True)], encoding.offsets


@pytest.mark.parametrize("name", ["chatml", "smollm2", "llama-3"])
def test_places_are_those_of_the_library(folder_of, name):
    """For every text that is spelled byte for byte, a character over several tokens included."""
    tokenizer = Tokenizer.from_file(str(folder_of(name) / "tokenizer.json"))
    tokenizer.post_processor = None

    @given(st.text() | st.sampled_from(TEXTS))
    def holds(text):
        reckoned, told = both(tokenizer, text)
        assert reckoned == told

    holds()


def test_text_that_is_normalised_is_left_to_the_library(tokenizer):
    """Its tokens spell another text, of another or, worse, of the same length."""
    tokenizer.normalizer = normalizers.NFC()

    assert both(tokenizer, "e\u0301")[0] is None
    assert both(tokenizer, "\u212b \u0915")[0] is None  # the sign for an angstrom becomes a letter
    assert both(tokenizer, "é")[0] == both(tokenizer, "é")[1]


def test_swallowed_white_space_is_left_to_the_library(tokenizer):
    """A token may take the space behind it."""
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])

    assert both(tokenizer, "a<|end|>  b")[0] is None
    assert both(tokenizer, "a<|end|>b")[0] == both(tokenizer, "a<|end|>b")[1]


def test_dropped_bytes_are_left_to_the_library(tokenizer):
    """A vocabulary without a byte leaves it out."""
    vocabulary = {letter: n for n, letter in enumerate("abc")}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    assert both(tokenizer, "abxc")[0] is None
    assert both(tokenizer, "abc")[0] == both(tokenizer, "abc")[1]


@pytest.mark.parametrize("change", ["lowercase", "prefix", "metaspace", "none", "suffix", "unknown"])
def test_a_tokenizer_that_rewrites_has_no_lengths(tokenizer, change):
    """Nothing is claimed where a token need not spell what it stands for."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if change == "lowercase":
        tokenizer.normalizer = normalizers.Lowercase()
    elif change == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), level])
    elif change == "none":
        tokenizer.pre_tokenizer = None
    else:
        more = {"end_of_word_suffix": "</w>"} if change == "suffix" else {"unk_token": "<unk>"}
        tokenizer.model = models.BPE({"a": 0, "<unk>": 1}, [], **more)

    assert ByteLengths.of(tokenizer) is None


@pytest.mark.parametrize("name", ["llama-2", "gemma"])
def test_sentencepiece_has_no_lengths(folder_of, name):
    """It writes its own sign for a space."""
    assert ByteLengths.of(Tokenizer.from_file(str(folder_of(name) / "tokenizer.json"))) is None
