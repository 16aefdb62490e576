"""Text to token ids and back to characters, with two things that a tokenizer alone cannot do.

Text that merely spells a special token stays text, and a token border can be forced where a prompt ends. For both,
`ApartEncoder` makes a second tokenizer of the first one, in which the special tokens go by private-use characters
(*aliases*) that nothing spells. The special tokens that the template wrote are replaced by their aliases, and all else
is tokenised as the model's own tokenizer would have done.
"""

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from penala.errors import TokensError
from penala.tokens.byte_lengths import NO_NUMBERS, ByteLengths, Numbers, as_numbers
from penala.tokens.words import Words

BORDER = 0x10FFFD  # the last private-use character; aliases count down from it, the marks of marks.py up from the first

_INSEPARABLE = "this tokenizer cannot keep its special tokens apart from text that spells them"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each the characters [start, end) of the text that it stands for.

    The tokens of one character that is split over several all carry that character. `numbers` are the ids as an array.
    """

    ids: list[int]
    starts: Sequence[int]
    ends: Sequence[int]
    numbers: Numbers = field(default_factory=lambda: NO_NUMBERS, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.numbers) != len(self.ids):
            object.__setattr__(self, "numbers", as_numbers(self.ids))

    def texts(self, text: str) -> list[str]:
        """Return the part of `text` that each token stands for; joined they are `text`.

        A character that is split over several tokens stands at the last of them, one that has no token at the next.
        """
        cuts: list[int] = []
        for n, end in enumerate(self.ends):
            following = self.starts[n + 1] if n + 1 < len(self.starts) else end
            cuts.append(max(min(end, following), cuts[-1] if cuts else 0))
        if cuts:
            cuts[-1] = len(text)
        return [text[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]


class Encoder:
    """The tokenizer of one model folder, without the tokens that its post-processor would add.

    A chat template writes the special tokens itself: a BOS that is added here would be a second one.
    Raises TokensError when there is no tokenizer.json, or one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            fix = "save the tokenizer with transformers' save_pretrained, which writes it"
            raise TokensError("there is no tokenizer.json", where=str(path.parent), fix=fix)
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise TokensError(f"is no tokenizer that can be read: {error}", where=str(path)) from None
        _bare(self.tokenizer)
        self._lengths = ByteLengths.of(self.tokenizer)
        self._words = Words.of(self.tokenizer)
        added = self.tokenizer.get_added_tokens_decoder()
        # white space among the added tokens (Gemma has runs of newlines) is text, not a sign
        self.added = {token.content: id_ for id_, token in added.items() if not token.content.isspace()}
        self.special = frozenset(
            token.content for token in added.values() if token.special and token.content in self.added
        )

    @property
    def puts_a_space_first(self) -> bool:
        """Whether text begins with a space of the tokenizer's own (SentencePiece writes "a" as "▁a")."""
        return self.tokenizer.encode("a", add_special_tokens=False).tokens[:1] in (["▁"], ["▁a"])

    def encode(self, text: str) -> Encoded:
        """Encode `text` as every other user of the tokenizer does."""
        return self.encoded(self.tokenizer.encode(text, add_special_tokens=False), text)

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        """Encode many texts, on all cores and without Python; `encoded` reads what comes back."""
        return list(self.tokenizer.encode_batch(texts, add_special_tokens=False))

    def encoded_by_words(self, text: str) -> Encoded | None:
        """Encode `text` as `encode` does and many times faster; None where that cannot be done."""
        if self._words is None or self._lengths is None or (numbers := self._words.ids(text)) is None:
            return None
        places = self._lengths.places(numbers, text)
        return Encoded(numbers.tolist(), *places, numbers) if places is not None else None

    def encoded(self, encoding: Any, text: str) -> Encoded:
        """Read what the tokenizer made of `text`."""
        ids: list[int] = encoding.ids
        numbers = as_numbers(ids)
        places = self._lengths.places(numbers, text) if self._lengths is not None else None
        starts, ends = places or _offsets(encoding)
        return Encoded(ids, starts, ends, numbers)


class ApartEncoder:
    """Encode text in which some spellings of `controls` (added tokens) are not meant as tokens."""

    def __init__(self, encoder: Encoder, controls: Collection[str]) -> None:
        self._aliases = {content: chr(BORDER - 1 - n) for n, content in enumerate(sorted(controls))}
        self.controls = pattern(controls)
        self._tokenizer = _sharing(encoder.tokenizer, self._aliases) or _renamed(encoder.tokenizer, self._aliases)
        own = self._tokenizer.pre_tokenizer
        if encoder.puts_a_space_first:  # before all that follows a special token, so a border must not be one
            apart = pre_tokenizers.Split(chr(BORDER), "isolated")
            self._tokenizer.pre_tokenizer = apart if own is None else pre_tokenizers.Sequence([own, apart])
        elif isinstance(own, pre_tokenizers.ByteLevel) and own.add_prefix_space:
            self._put_spaces_first(own)
        else:
            self._tokenizer.add_special_tokens([AddedToken(chr(BORDER), normalized=False, special=True)])
        added = encoder.tokenizer.get_added_tokens_decoder()
        names = {id_: self._aliases.get(token.content, token.content) for id_, token in added.items()}
        self._theirs = {self._tokenizer.token_to_id(name): id_ for id_, name in names.items()}
        self._ids = {alias: encoder.added[name] for name, alias in self._aliases.items()}
        self._where = str(encoder.path)
        if None in self._theirs:
            raise TokensError(_INSEPARABLE, where=self._where)

    def _put_spaces_first(self, level: pre_tokenizers.ByteLevel) -> None:
        """Put the spaces that `level` puts before what has none before borders are seen: a border begins no text."""
        spaces: list[Any] = [normalizers.Prepend(" "), normalizers.Replace(Regex(r"\A  "), " ")]
        if (own := self._tokenizer.normalizer) is not None:
            spaces.insert(0, own)
        self._tokenizer.normalizer = normalizers.Sequence(spaces)
        apart = pre_tokenizers.Split(chr(BORDER), "removed")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=level.use_regex)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, plain])

    def encode(self, text: str, spelled: Collection[int], borders: Iterable[int] = ()) -> Encoded:
        """Encode `text`: control tokens that begin at `spelled` are text, and no token crosses one of `borders`.

        Both are positions in `text`. Raises TokensError for a text that holds one of the aliases itself.
        """
        if any(ord(character) >= BORDER - len(self._aliases) for character in set(text)):
            what = f"the text holds the private-use character U+{max(map(ord, text)):X}, which is reserved here"
            raise TokensError(what, fix="leave it out of the text, or leave the row out")
        events = [(at, at, chr(BORDER)) for at in borders]
        for match in self.controls.finditer(text):
            if match.start() not in spelled:
                events.append((match.start(), match.end(), self._aliases[match[0]]))
        replaced, origin = _replaced(text, sorted(events))
        encoding = self._tokenizer.encode(replaced, add_special_tokens=False)
        ids, (starts, ends) = [self._theirs.get(id_, id_) for id_ in encoding.ids], _offsets(encoding)
        spans = zip(starts, ends, strict=True)
        pieces = [replaced[start:end].strip() for start, end in spans]  # controls may hold the white space around them
        found = sum(self._ids.get(piece) == id_ for piece, id_ in zip(pieces, ids, strict=True))
        if found != sum(end > start for start, end, _ in events):
            raise TokensError(_INSEPARABLE, where=self._where)
        kept = [n for n, piece in enumerate(pieces) if piece != chr(BORDER)]
        return Encoded(
            [ids[n] for n in kept],
            array("i", [origin(starts[n]) for n in kept]),
            array("i", [origin(ends[n]) for n in kept]),
        )


def pattern(contents: Collection[str]) -> re.Pattern[str]:
    """Compile a pattern that finds any of `contents` (of none: nothing), the longest where several begin."""
    longest_first = sorted(contents, key=lambda content: (-len(content), content))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _sharing(tokenizer: Tokenizer, aliases: Mapping[str, str]) -> Tokenizer | None:
    """Make a tokenizer whose added tokens go by `aliases` and which shares the model, whose table takes long to read.

    Its ids of added tokens are its own. None: the model could write such a token where its name is spelled, or knows
    one of these ids.
    """
    model, added = tokenizer.model, tokenizer.get_added_tokens_decoder()
    if not isinstance(model, models.BPE) or any([t.value for t in model.tokenize(name)] == [name] for name in aliases):
        return None
    twin = Tokenizer(model)
    twin.normalizer, twin.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    for token in added.values():
        token.content = aliases.get(token.content, token.content)
    twin.add_tokens(list(added.values()))
    ids = [(token.content, twin.token_to_id(token.content)) for token in added.values()]
    free = all(id_ is not None and model.id_to_token(id_) in (None, name) for name, id_ in ids)
    return twin if free else None


def _renamed(tokenizer: Tokenizer, aliases: Mapping[str, str]) -> Tokenizer:
    """Make a tokenizer with another table, in which tokens go by `aliases`; it is long, and not read as JSON here."""
    quoted = {json.dumps(name, ensure_ascii=False): f'"{alias}"' for name, alias in aliases.items()}
    stored = tokenizer.to_str()
    if isinstance(tokenizer.model, models.BPE):
        stored = _without_merges(stored, aliases)
    return Tokenizer.from_str(pattern(quoted).sub(lambda match: quoted[match[0]], stored))


def _without_merges(stored: str, names: Collection[str]) -> str:
    """Leave out the merges that make one of the tokens `names` from text, or go on from it."""
    read = json.loads(stored)
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in read["model"]["merges"]]
    kept = [pair for pair in merges if not {*pair, "".join(pair)}.intersection(names)]
    if len(kept) == len(merges):
        return stored
    read["model"]["merges"] = kept
    return json.dumps(read, ensure_ascii=False)


def _bare(tokenizer: Any) -> None:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None  # it would also cut white space off the offsets


def _offsets(encoding: Any) -> "tuple[array[int], array[int]]":
    offsets = encoding.offsets
    return array("i", [start for start, _ in offsets]), array("i", [end for _, end in offsets])


class _Origin:
    """Maps positions in a text with replacements to positions in the original."""

    def __init__(self) -> None:
        self._here = [0]
        self._there = [0]

    def add(self, here: int, there: int) -> None:
        self._here.append(here)
        self._there.append(there)

    def __call__(self, position: int) -> int:
        n = bisect_right(self._here, position) - 1
        return self._there[n] + position - self._here[n]


def _replaced(text: str, events: Iterable[tuple[int, int, str]]) -> tuple[str, _Origin]:
    """Replace text[start:end] by one character for each (start, end, character) in order."""
    parts: list[str] = []
    origin, done, length = _Origin(), 0, 0
    for start, end, character in events:
        if start < done:  # a border within a control token: there is one before it already
            continue
        parts += [text[done:start], character]
        length += start - done
        origin.add(length, start)
        length, done = length + 1, end
        origin.add(length, end)
    parts.append(text[done:])
    return "".join(parts), origin
