import random

from penala.conversations import near
from penala.conversations.near import NearDuplicates, triples_of

WORDS = [f"word{n}" for n in range(1000)]


def text(seed: int, count: int = 100) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def looked(*texts: list[str]) -> NearDuplicates:
    """Look for near duplicates among texts; the place of each is its number."""
    found = NearDuplicates()
    for number, words in enumerate(texts):
        found.take(str(number), triples_of(" ".join(words)))
    found.finish()
    return found


def test_a_row_that_differs_in_two_words_of_a_hundred_is_near():
    """It is counted, and paired with the row that it is near."""
    changed = text(1)
    changed[20] = changed[70] = "other"

    found = looked(text(1), text(2), changed)

    assert found.rows == 1
    assert found.pairs == [("2", "0")]


def test_rows_about_the_same_things_in_other_words_are_not_near():
    """Rows of the same vocabulary share no triples, and a fifth of the words changed is too much."""
    changed = [word if n % 5 else "other" for n, word in enumerate(text(1))]

    assert looked(*(text(seed) for seed in range(50)), changed).rows == 0


def test_each_of_many_near_rows_is_counted_once_and_paired_with_the_first():
    """Ten variants of one row are nine near duplicates of it, over the borders of batches too."""
    variants = [[*text(1), f"ending{n}"] for n in range(10)]
    others = [text(seed) for seed in range(100, 200)]

    found = looked(*variants[:5], *others, *variants[5:])

    assert found.rows == 9
    assert {first for _, first in found.pairs} == {"0"}


def test_no_more_rows_are_looked_at_than_the_limit(monkeypatch):
    """What is beyond the limit is counted as left out."""
    monkeypatch.setattr(near, "MAXIMUM_ROWS", 3)

    found = looked(text(1), text(2), text(3), text(1), text(1))

    assert (found.looked_at, found.left_out, found.rows) == (3, 2, 0)


def test_triples_are_words_or_in_scripts_without_spaces_characters():
    """Case is ignored, short texts have one triple, and only the beginning of a long text counts."""
    assert triples_of("One two Three four") == ["one two three", "two three four"]
    assert triples_of("Yes") == ["yes"]
    assert triples_of("马来西亚的首都是哪里吉隆坡是首都")[:2] == ["马来西亚的", "来西亚的首"]
    assert len(triples_of("ab " * 10_000)) < near.CHARACTERS / 3
