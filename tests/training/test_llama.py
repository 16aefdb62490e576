"""The fast path against transformers + PEFT, in float32: it is another way to compute the same numbers."""

import pytest
import torch

from penala.training.layout import lay_out, shared_prefix
from penala.training.llama import LlamaShape
from penala.training.lora import LoraSpec

# float32 rounding: sums over up to 500 tokens in another order
LOSS = {"rtol": 1e-6, "atol": 0.0}
GRADIENT = 1e-5  # of the largest entry of the same gradient


def assert_same_gradients(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).abs().max() <= GRADIENT * other[name].abs().max(), name


# 1. shapes and dtypes


def test_the_loss_is_one_number_and_the_adapter_is_float32(twins, documents):
    """A float64 scalar; A is (r, in), B is (out, r), whatever the dtype of the frozen weights."""
    fast = twins().fast
    loss = fast.loss_sum(documents)

    assert (loss.shape, loss.dtype) == ((), torch.float64)
    assert {parameter.dtype for parameter in fast.adapter.values()} == {torch.float32}
    stem = "base_model.model.model.layers.0.self_attn.k_proj"
    assert fast.adapter[f"{stem}.lora_A.weight"].shape == (4, 32)
    assert fast.adapter[f"{stem}.lora_B.weight"].shape == (16, 4)


def test_the_adapter_has_the_names_of_peft(twins):
    """Layer by layer, all linear layers but the head."""
    pair = twins()

    assert pair.fast.adapter.keys() == pair.reference.keys()


def test_the_stored_weights_are_those_of_transformers(twins):
    """Names and shapes, which is how a model folder is recognised."""
    for tied in (True, False):
        pair = twins(tie_word_embeddings=tied)
        expected = {name: tuple(tensor.shape) for name, tensor in pair.stored.items()}
        if tied:
            del expected["lm_head.weight"]

        assert pair.fast.shape.weights() == expected


# 2. an independent implementation


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_key_value_heads", [1, 2, 4])
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    twins, documents, gradients_of, tied, num_key_value_heads
):
    """Seven documents in one micro-batch, against one after the other, for grouped and ungrouped heads."""
    pair = twins(tie_word_embeddings=tied, num_key_value_heads=num_key_value_heads)
    loss, reference = pair.fast.loss_sum(documents), pair.reference_loss(documents)

    torch.testing.assert_close(loss.float(), reference, **LOSS)
    assert_same_gradients(gradients_of(loss, pair.fast.adapter), gradients_of(reference, pair.reference))


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("mlp.up_proj", "self_attn.o_proj")])
def test_some_layers_can_be_adapted_alone(twins, documents, gradients_of, targets):
    """lora_target_modules picks the same layers as in PEFT, and the rest stays frozen."""
    pair = twins(lora=LoraSpec(r=4, alpha=8.0, targets=targets))
    loss, reference = pair.fast.loss_sum(documents), pair.reference_loss(documents)

    torch.testing.assert_close(loss.float(), reference, **LOSS)
    assert_same_gradients(gradients_of(loss, pair.fast.adapter), gradients_of(reference, pair.reference))


def test_a_head_may_be_wider_than_its_share_of_the_hidden_width(twins, documents):
    """head_dim is the config's, not hidden_size / heads."""
    pair = twins(head_dim=16)

    torch.testing.assert_close(pair.fast.loss_sum(documents).float(), pair.reference_loss(documents), **LOSS)


# 3. identities


def test_packed_is_unpacked(twins, documents, gradients_of):
    """One micro-batch of seven documents, or seven micro-batches: the same loss and the same gradients."""
    fast = twins().fast
    alone = torch.stack([fast.loss_sum([document]) for document in documents]).sum()
    packed = fast.loss_sum(documents)

    torch.testing.assert_close(packed, alone, **LOSS)
    assert_same_gradients(gradients_of(packed, fast.adapter), gradients_of(alone, fast.adapter))


def test_a_shared_prefix_is_computed_once_and_changes_nothing(twins, documents, gradients_of, monkeypatch):
    """With and without sharing: the same numbers from fewer rows."""
    fast = twins().fast
    shared = gradients_of(loss := fast.loss_sum(documents), fast.adapter)
    saved = len(lay_out(documents, share_prefix=False).ids) - len(lay_out(documents).ids)
    monkeypatch.setattr("penala.training.layout.shared_prefix", lambda documents: 0)
    repeated = gradients_of(again := fast.loss_sum(documents), fast.adapter)

    assert saved == 9 * (sum(document.num_rows > 0 for document in documents) - 1)
    torch.testing.assert_close(loss, again, **LOSS)
    assert_same_gradients(shared, repeated)


def test_a_long_document_is_computed_as_a_short_one(twins, documents, gradients_of, monkeypatch):
    """Alone and block by block, or padded beside others: the same numbers."""
    fast = twins().fast
    mixed = gradients_of(loss := fast.loss_sum(documents), fast.adapter)
    monkeypatch.setattr("penala.training.layout.SHORT", 4)
    monkeypatch.setattr("penala.training.attention.BLOCK", 16)
    blocks = gradients_of(again := fast.loss_sum(documents), fast.adapter)

    torch.testing.assert_close(loss, again, **LOSS)
    assert_same_gradients(mixed, blocks)


def test_layers_that_are_run_again_give_the_same_bits(twins, documents, gradients_of):
    """Recomputing in the backward pass saves memory and changes nothing."""
    fast = twins().fast
    kept = gradients_of(fast.loss_sum(documents), fast.adapter)
    recomputed = gradients_of(fast.loss_sum(documents, recompute=True), fast.adapter)

    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_layers_that_are_run_again_drop_the_same_entries(twins, documents, gradients_of):
    """Dropout in a recomputed layer is the dropout of its forward pass."""
    fast = twins(lora=LoraSpec(r=4, alpha=8.0, dropout=0.5)).fast
    found = []
    for recompute in (False, True):
        torch.manual_seed(5)
        found.append(gradients_of(fast.loss_sum(documents[:3], recompute=recompute), fast.adapter))

    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(("dropout", "training", "shared"), [(0.5, True, False), (0.5, False, True), (0.0, True, True)])
def test_a_prefix_is_computed_once_unless_masks_differ(twins, documents, monkeypatch, dropout, training, shared):
    """Under dropout each document has masks of its own, also over the tokens that all begin with."""
    fast = twins(lora=LoraSpec(r=4, alpha=8.0, dropout=dropout)).fast
    seen = []

    def spied(given, *, share_prefix):
        seen.append(share_prefix)
        return lay_out(given, share_prefix=share_prefix)

    monkeypatch.setattr("penala.training.llama.lay_out", spied)
    fast.loss_sum(documents, training=training)

    assert seen == [shared]


def test_dropout_is_for_training_only(twins, documents):
    """Two evaluations agree, two training passes do not."""
    fast = twins(lora=LoraSpec(r=4, alpha=8.0, dropout=0.5)).fast

    assert fast.loss_sum(documents, training=False) == fast.loss_sum(documents, training=False)
    assert fast.loss_sum(documents) != fast.loss_sum(documents)


def test_a_document_does_not_see_another(twins, make_document):
    """Another text beside it leaves a document's share of the loss as it was."""
    fast = twins().fast
    kept = make_document(40, seed=1)
    alone = fast.loss_sum([kept])
    for other in (make_document(40, seed=2), make_document(290, seed=3)):
        together = fast.loss_sum([other, kept]) - fast.loss_sum([other])

        torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_what_follows_the_last_supervised_token_is_not_computed(twins, make_document):
    """A long tail without labels costs no row, and a document without labels costs none at all."""
    fast = twins().fast
    short, unlabelled = make_document(30, seed=1), make_document(20, seed=2, share=0.0)
    longer = type(short)(short.ids + unlabelled.ids, short.labels + unlabelled.labels)

    assert len(lay_out([longer]).ids) == len(lay_out([short]).ids)
    assert fast.loss_sum([longer, unlabelled]) == fast.loss_sum([short])
    assert fast.loss_sum([unlabelled]) == 0


def test_merged_weights_answer_like_the_adapter(twins, documents):
    """W + scale * B A in one matrix, without LoRA, is the adapted model."""
    pair = twins()
    merged = {name: tensor + pair.fast.delta(name) if name in pair.fast.adapted else tensor
              for name, tensor in pair.stored.items()}  # fmt: skip
    plain = type(pair.fast)(pair.fast.shape, merged.__getitem__, None, torch.float32)

    assert plain.adapter == {}
    torch.testing.assert_close(plain.loss_sum(documents), pair.fast.loss_sum(documents), rtol=1e-5, atol=0)


def test_a_fresh_adapter_changes_no_answer(twins, documents):
    """B is zero, A is not, and the seed decides A."""
    pair = twins()
    plain = type(pair.fast)(pair.fast.shape, pair.stored.__getitem__, None, torch.float32)
    drawn = []
    for seed in (3, 3, 4):
        pair.fast.reset_adapter(seed)
        drawn.append([parameter.detach().clone() for parameter in pair.fast.adapter.values()])

    torch.testing.assert_close(pair.fast.loss_sum(documents), plain.loss_sum(documents), **LOSS)
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not all(map(torch.equal, drawn[0], drawn[2]))


def test_bfloat16_is_near_float32(twins, documents):
    """The same code in bfloat16; 2 % of the loss is its rounding over three layers of wide random weights."""
    pair = twins()
    coarse = type(pair.fast)(pair.fast.shape, pair.stored.__getitem__, pair.fast.lora, torch.bfloat16)
    for name, parameter in coarse.adapter.items():
        parameter.data.copy_(pair.fast.adapter[name].data)
    loss = coarse.loss_sum(documents)
    loss.backward()

    assert loss.item() == pytest.approx(pair.fast.loss_sum(documents).item(), rel=0.02)
    assert {parameter.grad.dtype for parameter in coarse.adapter.values()} == {torch.float32}


# 4. round trips are those of the trainer: tests/training/test_trainer.py

# 5. it learns


def test_only_the_adapter_has_gradients(twins, documents):
    """Everything that the backward pass touched is a factor of LoRA."""
    fast = twins().fast
    frozen = [fast._embedding, fast._norm, *(linear.weight for linear in fast._linears())]
    fast.loss_sum(documents).backward()

    assert all(parameter.grad is not None for parameter in fast.adapter.values())
    assert [tensor for tensor in frozen if tensor.requires_grad or tensor.grad is not None] == []


def test_one_batch_can_be_learned_by_heart(twins, documents):
    """The loss of three documents falls below a tenth."""
    fast = twins(lora=LoraSpec(r=16, alpha=32.0)).fast
    fast.reset_adapter(0)
    optimizer = torch.optim.AdamW(fast.adapter.values(), lr=0.02, weight_decay=0.0)
    before = fast.loss_sum(documents[:3]).item()
    for _ in range(60):
        loss = fast.loss_sum(documents[:3])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    assert fast.loss_sum(documents[:3]).item() < 0.1 * before


# 6. what it does not know


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "phi3"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "rope type"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"sliding_window": 64}, "sliding_window"),
    ],
)
def test_what_transformers_would_heed_is_never_ignored(changes, reason):
    """The reason why the fast path is not taken is the name of the setting."""
    config = {
        "model_type": "llama", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }  # fmt: skip

    assert isinstance(LlamaShape.of(config), LlamaShape)
    assert LlamaShape.of({**config, **changes}) == reason


def test_the_rope_base_is_read_where_it_stands():
    """At the top in older configs, in rope_parameters in newer ones."""
    config = {
        "model_type": "llama", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }  # fmt: skip

    assert LlamaShape.of({**config, "rope_theta": 5e5, "rope_scaling": None}).rope_theta == 5e5
    assert LlamaShape.of({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}).rope_theta == 7e4
    assert LlamaShape.of(config).rope_theta == 1e4


def test_a_prefix_ends_before_anything_is_predicted(make_document):
    """What all share is shared, but not a row that predicts, and nothing with a single document."""
    same = [make_document(30, seed=1), make_document(30, seed=1)]

    assert shared_prefix(same) == same[0].supervised[0] - 1
    assert shared_prefix(same[:1]) == 0
    assert shared_prefix([make_document(30, seed=1), make_document(30, seed=2)]) == 0
