"""What a run is said to need."""

from penala.training.estimate import Sizes, memory_available, memory_needed, seconds_needed

SMOL = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip


def test_the_sizes_of_smollm2_are_counted():
    """106 million weights in the blocks, 28 million in the tied head."""
    sizes = Sizes.of(SMOL, 134_515_008)

    assert round(sizes.linear / 1e6) == 106
    assert round(sizes.head / 1e6) == 28


def test_a_larger_model_needs_more():
    """3.8 billion parameters in float32 do not fit into 16 GB, 135 million do."""
    assert memory_needed(3_821_079_552, "32") > 16e9
    assert memory_needed(134_515_008, "32", adapter=5_000_000) < 4e9


def test_this_machine_has_memory():
    """The figure is a real one."""
    assert 1e8 < memory_available() < 1e14


def test_twice_the_tokens_take_twice_the_time():
    """Within the noise of the probe."""
    sizes = Sizes.of(SMOL, 134_515_008)
    once, twice = (seconds_needed(sizes, "32", tokens, tokens // 4) for tokens in (10_000, 20_000))

    assert 1.0 < twice / once < 4.0
