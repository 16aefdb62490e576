"""What a run is said to need."""

import pytest

from penala.training.estimate import (
    ACTIVATION_BYTES,
    MicroBatches,
    Sizes,
    memory_available,
    memory_needed,
    memory_total,
    seconds_needed,
)

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
    assert memory_needed(134_515_008, "32", trained=5_000_000) < 4e9


def test_this_machine_has_memory():
    """The figures are real ones."""
    assert 1e8 < memory_available() <= memory_total() < 1e14


@pytest.fixture
def sixteen_gb(monkeypatch):
    """A machine with 16 GB."""
    monkeypatch.setattr("penala.training.estimate.memory_total", lambda: 16e9)


def plan(rows, *, batch=8, fast=True):
    return MicroBatches.plan(Sizes.of(SMOL, 134_515_008), rows, batch, bytes_a_number=4, fast=fast)


@pytest.mark.usefixtures("sixteen_gb")
def test_a_step_of_short_rows_is_one_micro_batch():
    """What it keeps is what its eight longest rows keep."""
    cut = plan([40] * 100)

    assert cut.max_tokens > 8 * 40
    assert cut.largest_bytes == pytest.approx(8 * 40 * Sizes.of(SMOL, 134_515_008).activation_bytes(4))
    assert cut.largest_bytes < ACTIVATION_BYTES


@pytest.mark.usefixtures("sixteen_gb")
def test_rows_of_8000_tokens_train_within_16_gb():
    """Their layers are run again, so that 135 million parameters in float32 and such a row stay far below."""
    cut = plan([8000, 8000, 300])

    assert cut.max_tokens < cut.recompute_above < 8000
    assert memory_needed(134_515_008, "32", trained=5_000_000, activations=cut.largest_bytes) < 6e9


@pytest.mark.usefixtures("sixteen_gb")
def test_what_the_other_rows_keep_counts_beside_a_long_one():
    """Only a row that is longer has its layers run again: those below it may keep more than it does."""
    cut = plan([8000, 2400, 2400])

    assert cut.largest_bytes == cut.recompute_above * Sizes.of(SMOL, 134_515_008).activation_bytes(4)


def test_a_control_group_s_file_cache_is_free(monkeypatch, tmp_path):
    """The kernel gives it back; the rest of what the group holds is taken."""
    monkeypatch.setattr("penala.training.estimate._GROUP", tmp_path)
    for name, text in (("max", "5000"), ("current", "3000"), ("stat", "anon 1000\ninactive_file 2000\n")):
        (tmp_path / f"memory.{name}").write_text(text)

    assert memory_available() == 5000 - (3000 - 2000)
    assert memory_total() == 5000


@pytest.mark.usefixtures("sixteen_gb")
def test_transformers_is_given_less_at_once():
    """It keeps more of each token, and all logits."""
    assert plan([40] * 100, fast=False).max_tokens < plan([40] * 100).max_tokens / 2


def test_twice_the_tokens_take_twice_the_time():
    """Within the noise of the probe."""
    sizes = Sizes.of(SMOL, 134_515_008)
    once, twice = (seconds_needed(sizes, "32", tokens, tokens // 4) for tokens in (10_000, 20_000))

    assert 1.0 < twice / once < 4.0
