"""Which way a model folder is opened, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from penala.errors import ModelError, TrainingError
from penala.training.generic import Generic
from penala.training.llama import Llama
from penala.training.lora import LoraSpec
from penala.training.model import lora_spec, open_model


@pytest.fixture
def folder(chat_model, tmp_path):
    """A copy of the tiny chat model."""
    return shutil.copytree(chat_model, tmp_path / "model")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_plain_llama_takes_the_fast_path(folder):
    """Without a note."""
    model, note = open_model(folder, LoraSpec(2, 4.0), torch.float32)

    assert isinstance(model, Llama)
    assert note is None


def test_both_ways_compute_the_same_loss_and_deltas(folder, make_document):
    """The same folder, adapter and documents, of which one has no label: 1e-5 is float32 rounding."""
    spec = LoraSpec(2, 4.0)
    fast, _ = open_model(folder, spec, torch.float32)
    generic = Generic(folder, spec, torch.float32)
    fast.reset_adapter(3)
    generic.reset_adapter(3)
    with torch.no_grad():
        for name, parameter in generic.adapter.items():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1)
            fast.adapter[name].copy_(parameter)
    documents = [make_document(length, seed=length) for length in (30, 8, 17)]
    documents.append(make_document(9, seed=1, share=0.0))

    assert generic.adapted == fast.adapted
    for name in fast.adapted:
        torch.testing.assert_close(generic.delta(name), fast.delta(name))
    for recompute in (False, True):
        loss = generic.loss_sum(documents, recompute=recompute)
        torch.testing.assert_close(loss, fast.loss_sum(documents), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: change_config(folder, attention_bias=False, hidden_act="gelu"), "hidden_act"),
        (lambda folder: change_config(folder, rope_scaling={"type": "linear", "factor": 2.0}), "rope type"),
    ],
)
def test_what_the_fast_path_does_not_know_goes_through_transformers(folder, spoil, reason):
    """The note names what it is."""
    spoil(folder)
    model, note = open_model(folder, LoraSpec(2, 4.0), torch.float32)

    assert isinstance(model, Generic)
    assert note == f"the fast path does not know this model's {reason}: transformers and PEFT train it"


def test_a_target_outside_the_blocks_goes_through_peft(folder):
    """The head is no linear layer of a block: the fast path would leave it alone in silence."""
    change_config(folder, tie_word_embeddings=False)
    change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}))
    model, note = open_model(folder, LoraSpec(2, 4.0, targets=("q_proj", "lm_head")), torch.float32)

    assert "lm_head.weight" in model.adapted
    assert note is not None
    assert "LoRA target lm_head" in note


def test_a_tied_head_that_is_stored_twice_takes_the_fast_path(folder):
    """It is the embedding, which the fast path reads."""
    change_config(folder, tie_word_embeddings=True)
    change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 0}))

    assert open_model(folder, LoraSpec(2, 4.0), torch.float32)[1] is None


def test_a_weight_of_another_shape_is_refused(folder):
    """Both shapes are said."""
    change_config(folder, intermediate_size=48)

    with pytest.raises(ModelError, match=r"gate_proj\.weight has shape \(64, 32\), and config.json says \(48, 32\)"):
        open_model(folder, LoraSpec(2, 4.0), torch.float32)


def test_a_weight_that_is_missing_is_never_made_up(folder):
    """transformers would draw it at random and warn."""
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))

    with pytest.raises(
        ModelError, match=r"the weights lack model\.layers\.1\.mlp\.up_proj\.weight; fetch the model again"
    ):
        open_model(folder, LoraSpec(2, 4.0), torch.float32)


def test_targets_that_fit_no_layer_are_refused(folder):
    """PEFT names what it looked for."""
    with pytest.raises(TrainingError, match=r"LoRA finds no layer: .*nowhere_proj"):
        open_model(folder, LoraSpec(2, 4.0, targets=("nowhere_proj",)), torch.float32)


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        ({}, ()),
        ({"lora_target_modules": "all-linear"}, ()),
        ({"lora_target_modules": ["q_proj", "v_proj"]}, ("q_proj", "v_proj")),
    ],
)
def test_the_model_says_which_layers_are_adapted(tmp_path, config, targets):
    """In finetune_config.json; all linear ones when it says nothing."""
    (tmp_path / "finetune_config.json").write_text(json.dumps(config))

    assert lora_spec(tmp_path, 8, 16, 0.0) == LoraSpec(8, 16, 0.0, targets)


def test_a_pattern_of_layers_is_refused(tmp_path):
    """PEFT would read any other text as a regular expression."""
    (tmp_path / "finetune_config.json").write_text(json.dumps({"lora_target_modules": ".*proj"}))

    with pytest.raises(TrainingError, match=r"lora_target_modules is '\.\*proj'; write a list of layer names"):
        lora_spec(tmp_path, 8, 16, 0.0)
