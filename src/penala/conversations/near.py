"""Rows that say nearly the same: MinHash signatures of word triples, looked up by locality-sensitive hashing (rensa).

A row is near an earlier one when at least `SIMILAR` of all the triples of both are in both: in a row of some length,
about one word in twenty differs. Estimated from 64 hashes, so a pair just at the limit may go either way.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from rensa import RMinHash, RMinHashDeduplicator

SIMILAR = 0.7
HASHES, BANDS = 64, 16  # four hashes a band find 97 of 100 pairs at the limit; the signatures then judge them
SEED = 1
# What it costs is bounded: 2.2 kB and under a millisecond a row, so about half a gigabyte and a few minutes at most.
MAXIMUM_ROWS = 250_000
CHARACTERS = 10_000  # of each row are looked at
BATCH_ROWS = 64
SHOWN_PAIRS = 10
SPACELESS = 15  # characters a word, from which on a text is taken to be of a script without spaces


class NearDuplicates:
    """Takes rows one after the other; counts those that are near an earlier one, which they then do not stand for.

    Rows that are the same word for word are not its business: leave them out.
    """

    def __init__(self) -> None:
        self.looked_at = self.left_out = self.rows = 0
        self.pairs: list[tuple[str, str]] = []  # the first ones: (place, place of the row that it is near)
        self._batch: list[tuple[str, list[str]]] = []
        self._index: Any = RMinHashDeduplicator(SIMILAR, HASHES, True, BANDS, SEED)

    def take(self, place: str, triples: list[str]) -> None:
        """Take one row. Nothing is known of it before `finish`."""
        if self.looked_at == MAXIMUM_ROWS:
            self.left_out += 1
            return
        self.looked_at += 1
        self._batch.append((place, triples))
        if len(self._batch) == BATCH_ROWS:
            self._look()

    def finish(self) -> None:
        """Look at the rows that still wait."""
        self._look()

    def _look(self) -> None:
        sketches = RMinHash.from_token_sets([triples for _, triples in self._batch], HASHES, SEED)
        for number, ((place, _), sketch) in enumerate(zip(self._batch, sketches, strict=True)):
            if found := self._index.get_duplicates(sketch):
                self.rows += 1
                if len(self.pairs) < SHOWN_PAIRS:
                    self.pairs.append((place, min(found, key=_order).partition(" ")[2]))
            else:
                self._index.add(f"{self.looked_at - len(self._batch) + number} {place}", sketch)
        self._batch.clear()


def _order(key: str) -> int:
    return int(key.partition(" ")[0])


def triples_of(text: str) -> list[str]:
    """Return the word triples of a text in small letters; of a text without spaces, its runs of five characters."""
    text = text[:CHARACTERS].lower()
    words = text.split()
    if len(text) > SPACELESS * len(words):
        return list(_runs(text)) or [text]
    return list(map(" ".join, zip(words, words[1:], words[2:], strict=False))) or [" ".join(words)]


def _runs(text: Sequence[str]) -> Iterator[str]:
    return ("".join(text[n : n + 5]) for n in range(len(text) - 4))
