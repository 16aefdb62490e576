"""Ids of a text word by word: what the tokenizers library says of each new word, remembered.

The library takes most of a preparation's time to cut texts into words and to merge the same words again. For the
byte-level tokenizers whose way to cut is known, a regular expression cuts here and a dictionary remembers. Only
characters are taken whose classes no version of Unicode will move, and at loading they are compared with the library's
own cut: passages with others, and tokenizers with another cut, are the library's.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer, models, normalizers

from penala.tokens.byte_lengths import Numbers, as_numbers

MAXIMUM_WORDS = 1 << 18  # are remembered, some 60 MB
MAXIMUM_LENGTH = 64  # of a word that is remembered

# Latin and general punctuation; without the long s, which is an s where case is ignored
_CHARACTERS = "".join(map(chr, (*range(0x17F), *range(0x180, 0x250), *range(0x2000, 0x2070))))
_STRANGE = re.compile(f"[^{re.escape(_CHARACTERS)}]+")
_BETWEEN_WORDS = re.compile("(?<=[A-Za-z]) (?=[A-Za-z])")  # all of the expressions below cut here, whatever is around
# what stands for a class of characters in the expressions below: letters, numbers, white space
_CLASSES = {
    "<L>": "".join(c for c in _CHARACTERS if unicodedata.category(c)[0] == "L"),
    "<N>": "".join(c for c in _CHARACTERS if unicodedata.category(c)[0] == "N"),
    "<S>": "\t\n\v\f\r \x85\xa0\u2000-\u200a\u2028\u2029\u202f\u205f",
}
_GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?[<L>]+| ?[<N>]+| ?[^<S><L><N>]+|[<S>]+(?![^<S>])|[<S>]+"
_DIGIT_BY_DIGIT = _GPT2.replace(" ?[<N>]+", "[<N>]").replace("(?![^<S>])", "(?![^<S><N>])")
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n<L><N>]?[<L>]+|[<N>]| ?[^<S><L><N>]+[\r\n]*|[<S>]*[\r\n]+"
    "|[<S>]+(?![^<S>])|[<S>]+"
)
_LLAMA3 = _QWEN.replace("|[<N>]|", "|[<N>]{1,3}|")
# byte-level tokenizers spell a byte as the character of its number, or from U+0100 on where that one is not seen
_UNSEEN = (*range(0x21), *range(0x7F, 0xA1), 0xAD)
_LEVEL = {byte: 0x100 + n for n, byte in enumerate(_UNSEEN)}


class Words:
    """The words of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, cut: re.Pattern[str]) -> None:
        added = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._added = {content: as_numbers([id_]).tobytes() for content, id_ in added.items()}
        self._apart = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._cut = cut
        self._ids = _Remembered(tokenizer.model)
        self._tokenizer = tokenizer
        self._normalized = tokenizer.normalizer is not None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Learn how a tokenizer cuts. None: in a way that is not known here."""
        normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        if not isinstance(tokenizer.model, models.BPE) or tokenizer.model.dropout or pre_tokenizer is None:
            return None
        if not (normalizer is None or isinstance(normalizer, normalizers.NFC)):
            return None
        if any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added):
            return None
        expression = _expression(json.loads(pre_tokenizer.__getstate__()))
        if expression is None:
            return None
        cut = re.compile(expression)
        trial = "".join(f"a{c}1{c} {c}.{c}{c}  {c}'s\n" for c in _CHARACTERS)
        theirs = [trial[start:end] for _, (start, end) in pre_tokenizer.pre_tokenize_str(trial)]
        return cls(tokenizer, cut) if cut.findall(trial) == theirs else None

    def ids(self, text: str) -> Numbers | None:
        """Return the ids of a text; None for one that the tokenizer has to look at itself, or at more than half of."""
        if not text.isascii() and self._normalized and not unicodedata.is_normalized("NFC", text):
            return None
        is_strange, num_strange = _is_strange(text), 0
        ids: list[bytes] = []
        for n, part in enumerate(self._apart.split(text)):
            if n % 2:
                ids.append(self._added[part])
                continue
            for strange, passage in _passages(part) if is_strange else ((False, part),):
                if not strange:
                    ids += map(self._ids.__getitem__, self._cut.findall(passage))
                elif 2 * (num_strange := num_strange + len(passage)) > len(text):
                    return None
                else:
                    ids.append(self._theirs(passage))
        return np.frombuffer(b"".join(ids), np.int32)

    def _theirs(self, text: str) -> bytes:
        return as_numbers(self._tokenizer.encode(text, add_special_tokens=False).ids).tobytes()


def _passages(text: str) -> Iterator[tuple[bool, str]]:
    """Cut a text between words where it begins and ends to be strange; yield whether each passage is."""
    done = 0
    for strange in _STRANGE.finditer(text):
        if strange.start() < done:
            continue
        start = text.rfind(" ", done, strange.start())
        while start > done and not _BETWEEN_WORDS.match(text, start):
            start = text.rfind(" ", done, start)
        border = _BETWEEN_WORDS.search(text, strange.end())
        end = len(text) if border is None else border.start()
        if start > done:
            yield False, text[done:start]
            done = start
        yield True, text[done:end]
        done = end
    if done < len(text):
        yield False, text[done:]


def _is_strange(text: str) -> bool:
    return not text.isascii() and _STRANGE.search(text) is not None


class _Remembered(dict[str, bytes]):
    """Ids by word, as the bytes of an array; a word that is not there yet is asked of the model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> bytes:
        spelled = word.encode().decode("latin-1").translate(_LEVEL)
        ids = as_numbers([token.id for token in self._model.tokenize(spelled)]).tobytes()
        if len(word) <= MAXIMUM_LENGTH and len(self) < MAXIMUM_WORDS:
            self[word] = ids
        return ids


def _expression(stored: Mapping[str, Any]) -> str | None:
    """Return the regular expression that cuts as a stored pre-tokenizer does; None when that is not known."""
    steps = [{**step, "trim_offsets": True} for step in stored.get("pretokenizers", [stored])]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True, "trim_offsets": True}
    split = {"type": "Split", "behavior": "Isolated", "invert": False, "trim_offsets": True}
    known = [([level], _GPT2), ([digits, level], _DIGIT_BY_DIGIT)]
    for expression in (_QWEN, _LLAMA3, _GPT2):
        known.append(([split | {"pattern": {"Regex": _theirs(expression)}}, level | {"use_regex": False}], expression))
    return next((_ours(expression) for its_steps, expression in known if its_steps == steps), None)


def _theirs(expression: str) -> str:
    """Write an expression as tokenizer.json does."""
    whole = {"[<L>]": r"\p{L}", "[<N>]": r"\p{N}", "[^<S>]": r"\S", "[<S>]": r"\s"}
    for ours, theirs in (whole | {"<L>": r"\p{L}", "<N>": r"\p{N}", "<S>": r"\s"}).items():
        expression = expression.replace(ours, theirs)
    return expression


def _ours(expression: str) -> str:
    """Write an expression for Python, which has no such classes, or has them with other characters."""
    for name, characters in _CLASSES.items():
        expression = expression.replace(name, characters)
    return expression
