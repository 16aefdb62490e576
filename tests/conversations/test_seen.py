"""Rows looked at together are told the same as rows looked at one by one."""

from hypothesis import given
from hypothesis import strategies as st

from penala.conversations.seen import NONE, Seen

DIGESTS = st.one_of(st.integers(1, 3), st.integers(1, 2**64 - 1))
WITHOUT = st.tuples(DIGESTS, st.just(NONE), st.just(NONE))
WITH_PROMPT = st.tuples(DIGESTS, DIGESTS, st.one_of(st.just(NONE), DIGESTS))
BLOCKS = st.lists(
    st.one_of(st.lists(WITHOUT, max_size=4), st.lists(WITH_PROMPT, max_size=4), st.lists(WITHOUT | WITH_PROMPT)),
    max_size=4,
)


@given(BLOCKS)
def test_rows_together_are_told_what_each_is_told_alone(blocks):
    """Repeated rows, prompts and ids, within a block and from block to block."""
    together, alone = Seen(), Seen()
    line = 0
    for split, block in enumerate(blocks):
        together.begin(split // 2, f"{split}.jsonl")
        alone.begin(split // 2, f"{split}.jsonl")
        lines = range(line, line := line + len(block))
        columns = [list(column) for column in zip(*block, strict=True)] or [[], [], []]

        told = list(together.look_all(columns, lines))
        assert told == [(at, fault) for at, said in zip(lines, block, strict=True) for fault in alone.look(said, at)]
