"""Words give the ids that the tokenizers library gives, or nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from penala.tokens import words
from penala.tokens.encoding import Encoder
from penala.tokens.words import Words

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama3": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), LEVEL]),
    "qwen": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), LEVEL]),
    "gpt2 split": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT2), "isolated"), LEVEL]),
}
PIECES = [
    " ", "  ", "\n", "\r\n", "\t", "\x85", "\xa0", "\u2028", "a", "Kaya", "é", "\u00aa", "ǆ", "1", "23", "½", "²", "'s",
    "'S", "'ll", "\u2019s", "!", "...", "<", "<|im_end|>", "<|im_start|>", "|im_end|>", "e\u0301", "\u017f", "'\u017f",
    "\u212a", "咖", "☕", "\u200b", "\u2065", "\x1c", "\x00", "_", "-",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join) | st.text() | st.text(st.characters(max_codepoint=0x250))


def trained(cut, **options):
    """Train a small tokenizer that cuts so."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Kaya 12 is  jam\n\n and 'll ½ é don't <|im_end|>"] * 9, trainer)
    tokens = [AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>", "<|im_end|>\n")]
    tokenizer.add_special_tokens(tokens)
    return tokenizer


def ids_of(known, text):
    """Return the ids that words give, as a list."""
    ids = known.ids(text)
    return None if ids is None else ids.tolist()


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=["as it is", "NFC"])
def test_ids_are_those_of_the_library(name, normalizer):
    """For any text that is taken, first and again; Latin text is taken."""
    tokenizer = trained(CUTS[name])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    known = Words.of(tokenizer)

    @given(TEXTS, st.sampled_from(["", "jam and is"]))
    def holds(text, latin):
        text = f"{latin}{text}{latin}{latin}{text}"
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids_of(known, text) in (None, expected)
        assert ids_of(known, text) in (None, expected)

    holds()
    assert known.ids("It\u2019s  Kaya 123\n\né<|im_end|>\n") is not None


@pytest.mark.parametrize("text", ["咖啡", "☕", "\u017fo", "\u212a", "e\u0301", "\ud800"])
def test_characters_whose_classes_may_move_are_the_librarys(text):
    """So is text that a normalizer would change."""
    tokenizer = trained(CUTS["qwen"])
    tokenizer.normalizer = normalizers.NFC()

    assert Words.of(tokenizer).ids(text) is None


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("character", ["咖", "☕", "\u017f", "\u0301", "\u1680", "\u0661"])
def test_a_few_such_characters_do_not_give_a_text_away(name, character):
    """Only what stands around them, from word to word, is the library's, once for each time."""
    tokenizer = trained(CUTS[name])
    known = Words.of(tokenizer)
    asked = []
    ask = known._theirs
    known._theirs = lambda text: asked.append(text) or ask(text)
    text = f"Kaya is 12  jam and is jam{character}, 'll{character}  is jam<|im_end|>\n{character}and is Kaya and no jam"

    assert ids_of(known, text) == tokenizer.encode(text, add_special_tokens=False).ids
    assert asked == [f" jam{character}, 'll{character}  is", f"{character}and"]


def test_every_byte_is_spelled_as_byte_level_tokenizers_do():
    """The library's own table says so."""
    text = "".join(map(chr, range(0xD800)))
    ((spelled, _),) = LEVEL.pre_tokenize_str(text)

    assert text.encode().decode("latin-1").translate(words._LEVEL) == spelled


@pytest.mark.parametrize("change", ["cut", "split", "prefix", "lowercase", "rstrip", "normalized", "dropout", "none"])
def test_another_tokenizer_is_the_librarys(change):
    """Nothing is guessed about a way to cut, to normalise or to find special tokens that is not known."""
    tokenizer = trained(CUTS["llama3"])
    if change == "cut":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), LEVEL])
    elif change == "split":
        other = LLAMA3.replace("{1,3}", "{1,2}")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(other), "isolated"), LEVEL])
    elif change == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "lowercase":
        tokenizer.normalizer = normalizers.Lowercase()
    elif change in ("rstrip", "normalized"):
        tokenizer.add_special_tokens([AddedToken("<x>", **{"normalized": False, change: True})])
    elif change == "dropout":
        tokenizer.model.dropout = 0.5
    else:
        tokenizer.pre_tokenizer = None

    assert Words.of(tokenizer) is None


def test_a_library_that_cuts_otherwise_is_noticed_at_loading(monkeypatch):
    """Were its classes of characters not ours, every text would be its own."""
    monkeypatch.setitem(words._CLASSES, "<L>", words._CLASSES["<L>"].replace("é", ""))

    assert Words.of(trained(CUTS["gpt2"])) is None


def test_what_is_remembered_is_bounded(monkeypatch):
    """Beyond the limits words are asked for each time."""
    monkeypatch.setattr(words, "MAXIMUM_WORDS", 2)
    monkeypatch.setattr(words, "MAXIMUM_LENGTH", 5)
    tokenizer = trained(CUTS["gpt2"])
    known = Words.of(tokenizer)
    text = "abcdefghij a b c d"

    assert ids_of(known, text) == ids_of(known, text) == tokenizer.encode(text).ids
    assert sorted(known._ids) == [" a", " b"]


def test_dropped_bytes_leave_the_text_to_the_library(folder_of, tmp_path):
    """Ids that do not spell the text have no places, so that words give up."""
    stored = json.loads((folder_of("smollm2") / "tokenizer.json").read_text())
    del stored["model"]["vocab"]["x"]
    stored["model"]["merges"] = [pair for pair in stored["model"]["merges"] if "x" not in "".join(pair)]
    stored["model"]["vocab"] = {word: n for word, n in stored["model"]["vocab"].items() if "x" not in word}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    encoder = Encoder(tmp_path / "tokenizer.json")

    assert encoder.encoded_by_words("kaya") == encoder.encode("kaya")
    assert encoder.encoded_by_words("kaya x") is None
