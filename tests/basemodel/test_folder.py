import json

import pytest

from penala.basemodel.folder import INDEX, check_folder, count_parameters, linear_layers, link, model_files, tensors
from penala.errors import ModelError


def test_a_whole_folder_passes(llama):
    """A folder with config, tokenizer and safetensors weights raises nothing."""
    check_folder(llama)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(llama, name):
    """Without config, tokenizer or weights the error says which file is missing, and where."""
    (llama / name).unlink()

    with pytest.raises(ModelError, match=f"tiny-llama: {name} is missing"):
        check_folder(llama)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_by_name(llama, name):
    """A folder that has nothing but a pickle gets an error with its name and the way to safetensors."""
    (llama / "model.safetensors").rename(llama / name)

    with pytest.raises(ModelError, match=rf"{name} is a pickle.*safe_serialization=True"):
        check_folder(llama)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_weights_that_are_cut_short_are_refused(llama, size):
    """A file that ends early, in its header or in its data, is told from a whole one without reading the data."""
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])

    with pytest.raises(ModelError, match=r"model\.safetensors: is cut short"):
        check_folder(llama)


def test_weights_that_are_something_else_are_refused(llama):
    """Eight bytes of a plausible length do not make a safetensors file."""
    (llama / "model.safetensors").write_bytes((16).to_bytes(8, "little") + b"not json at all!" + b"data")

    with pytest.raises(ModelError, match="is no safetensors file"):
        check_folder(llama)


def test_a_shard_that_the_index_names_must_be_there(llama):
    """Shards are found through their index; a missing one is named."""
    shard = llama / "model-00001-of-00002.safetensors"
    (llama / "model.safetensors").rename(shard)
    index = {"weight_map": dict.fromkeys(tensors(shard), shard.name)}
    (llama / INDEX).write_text(json.dumps(index))
    check_folder(llama)

    index["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (llama / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors is missing"):
        check_folder(llama)


def test_a_config_that_is_no_json_is_refused(llama):
    """The error names the file."""
    (llama / "config.json").write_text("{")

    with pytest.raises(ModelError, match=r"config\.json: cannot be read as JSON"):
        check_folder(llama)


def test_parameters_are_counted_from_the_headers(llama):
    """Two layers of width 32 (q and o, k and v of 16 rows, three of 64 rows, two norms), embedding and last norm."""
    vocabulary = tensors(llama / "model.safetensors")["model.embed_tokens.weight"][1][0]
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32

    assert count_parameters(llama) == 2 * layer + vocabulary * 32 + 32


def test_linear_layers_are_those_of_the_blocks(llama, phi3):
    """Llama has seven, Phi-3 its four fused ones; embeddings and norms are not among them."""
    assert linear_layers(llama) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert linear_layers(phi3) == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]


def test_only_files_of_a_model_are_taken_over(llama):
    """Pickles, code and notes that lie beside a model stay behind; its licence and named templates come along."""
    templates = "additional_chat_templates/tool_use.jinja"
    (llama / templates).parent.mkdir()
    for name in ("pytorch_model.bin", "modeling_custom.py", "README.md", "training_args.bin", "LICENSE", templates):
        (llama / name).write_text("x")

    model = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert model_files(llama) == ["LICENSE", templates, *model]


def test_a_link_is_a_second_name_for_the_same_bytes(tmp_path):
    """On one file system nothing is copied, and a symbolic link is followed."""
    (tmp_path / "a").write_text("weights")
    (tmp_path / "alias").symlink_to("a")

    link(tmp_path / "alias", tmp_path / "b")

    assert (tmp_path / "b").stat().st_ino == (tmp_path / "a").stat().st_ino
    assert not (tmp_path / "b").is_symlink()
