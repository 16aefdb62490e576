"""Where tokens stand in a text, reckoned from how many bytes each of them spells.

The tokenizers library tells two Python numbers a token, which takes longer than all else that is done with a row.
A byte-level tokenizer that changes nothing spells a text byte for byte, so that sums of lengths say the same.
"""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

Numbers = np.ndarray[Any, np.dtype[np.int32]]
NO_NUMBERS: Numbers = np.zeros(0, np.int32)
_ZERO: Numbers = np.zeros(1, np.int32)
_CUTS_ONLY = {"ByteLevel", "Digits", "Punctuation", "Split"}  # pre-tokenizers that write nothing into the text


class ByteLengths:
    """The number of bytes that each token of one tokenizer spells."""

    def __init__(self, lengths: Numbers, *, normalized: bool) -> None:
        self._lengths = lengths
        self._normalized = normalized  # to NFC, so that only a text in that form is what its tokens spell

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Measure the tokens of a tokenizer. None: its tokens need not spell the text byte for byte."""
        model, normalizer = tokenizer.model, tokenizer.normalizer
        if not (normalizer is None or isinstance(normalizer, normalizers.NFC)) or not isinstance(model, models.BPE):
            return None
        if model.continuing_subword_prefix or model.end_of_word_suffix or not _cuts_to_bytes(tokenizer.pre_tokenizer):
            return None
        words = tokenizer.get_vocab(with_added_tokens=False)
        if model.unk_token is not None and not words.keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
            return None  # the token for unknown bytes spells none; without one they are dropped, and the sum is short
        spelled = {id_: len(word) for word, id_ in words.items()}  # each character of a word stands for one byte
        for id_, token in tokenizer.get_added_tokens_decoder().items():
            spelled[id_] = len(token.content.encode())
        lengths = np.zeros(max(spelled) + 1, np.int32)
        lengths[list(spelled)] = list(spelled.values())
        return cls(lengths, normalized=normalizer is not None)

    def places(self, ids: Numbers, text: str) -> "tuple[memoryview[int], memoryview[int]] | None":
        """Return where each token begins and ends in `text`, in characters; None when they do not spell it.

        The tokens of one character that is split over several all carry that character, as in `Encoded`.
        """
        borders = np.concatenate((_ZERO, self._lengths[ids])).cumsum(dtype=np.int32)
        starts, ends = borders[:-1], borders[1:]
        if text.isascii():
            fits = borders[-1] == len(text)  # added tokens may swallow the white space around them
        else:
            spelled = np.frombuffer(text.encode(), np.int8)
            fits = borders[-1] == len(spelled) and not (self._normalized and not unicodedata.is_normalized("NFC", text))
            if fits:
                characters = (spelled >= -64).cumsum(dtype=np.int32)  # so many begin up to each byte
                starts, ends = characters[starts] - 1, characters[ends - 1]
        return (starts.data, ends.data) if fits else None


def as_numbers(ids: Sequence[int]) -> Numbers:
    """Return ids as an array of int32."""
    return np.fromiter(ids, np.int32, len(ids))


def _cuts_to_bytes(pre_tokenizer: Any) -> bool:
    """Tell whether a pre-tokenizer cuts the text into words and turns them into bytes, and does no more."""
    if pre_tokenizer is None:
        return False
    stored = json.loads(pre_tokenizer.__getstate__())
    steps = stored.get("pretokenizers", [stored])
    return (
        all(step["type"] in _CUTS_ONLY for step in steps)
        and any(step["type"] == "ByteLevel" for step in steps)
        and not any(step.get("add_prefix_space") for step in steps)
    )
