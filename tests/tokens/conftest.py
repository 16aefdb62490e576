"""Small model folders, one a family of templates.py, with tokenizers that are built here."""

import dataclasses
import functools
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from penala.conversations.conversation import Conversation, Message
from penala.tokens.chat_tokenizer import ChatTokenizer


def _beside(name, file):
    """Load a file that lies beside this one; test modules find it under `name`."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


templates = _beside("chat_templates", "templates.py")
_beside("chat_oracles", "oracles.py")

TEXT = [
    "What is kaya? A coconut jam. Berapa harga teh tarik? RM 2.40. user assistant system model",
    "The assistant is helpful and brief. Selamat pagi, apa khabar? Hello there, how are you today?",
    "  two  spaces\n\n\nlines\n\n of text <think> </think> end of turn start header",
] * 3
# how Llama-3 and Qwen cut text; newlines stay together, so "\n" before "\nHello" is not the token it is before "Hello"
LINES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def said(*pairs, tools=None, **place) -> Conversation:
    """Make a conversation of (role, content) or (role, content, other keys)."""
    messages = tuple(Message(pair[0], pair[1], dict(pair[2]) if len(pair) > 2 else {}) for pair in pairs)
    return Conversation(messages, tools, **{"file": "rows.jsonl", "line": 7, "row": 7, **place})


def write_folder(family, folder: Path) -> Path:
    """Write the tokenizer, the template and the configs of a model of `family`."""
    tokenizer = _tokenizer(family.tokenizer)
    flags = {"normalized": False, "special": True, "rstrip": family.rstrip}
    tokenizer.add_special_tokens([AddedToken(token, **flags) for token in family.tokens])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": family.eos, **({"bos_token": family.bos} if family.bos else {})}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**30, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(family.source)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    return folder


def _tokenizer(kind: str) -> Tokenizer:
    return _byte_level(kind) if kind in ("byte", "lines") else _sentencepiece(kind)


def _byte_level(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "byte")
    lines = pre_tokenizers.Split(Regex(LINES), "isolated")
    tokenizer.pre_tokenizer = level if kind == "byte" else pre_tokenizers.Sequence([lines, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _sentencepiece(kind: str) -> Tokenizer:
    """Spaces are pieces, unknown characters are bytes; Llama-2's kind puts a space before every stretch of text."""
    trained = Tokenizer(models.BPE())
    spaces = [normalizers.Replace(" ", "▁")]
    if kind == "llama":
        spaces.insert(0, normalizers.Prepend("▁"))
    trained.normalizer = normalizers.Sequence(spaces)
    words = pre_tokenizers.Split("▁", "merged_with_next")
    trained.pre_tokenizer = words
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for piece in (piece for piece in model["vocab"] if piece != "\n"):  # in Llama-2 a newline is a byte
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [tuple(pair) for pair in model["merges"] if "\n" not in "".join(pair)]
    for pair in merges:
        vocabulary.setdefault("".join(pair), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = words
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if kind == "llama" else steps)
    return tokenizer


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Give the model folder of a family, by name."""
    return functools.cache(lambda name: write_folder(templates.BY_NAME[name], tmp_path_factory.mktemp("models") / name))


@pytest.fixture(scope="session")
def tokenizer_of(folder_of):
    """Give the ChatTokenizer of a family, by name."""
    return functools.cache(lambda name: ChatTokenizer.from_folder(folder_of(name)))


@pytest.fixture(scope="session")
def id_of(folder_of):
    """Give the id of a token in the vocabulary of a family, by name."""
    return lambda name, token: Tokenizer.from_file(str(folder_of(name) / "tokenizer.json")).token_to_id(token)


@pytest.fixture(scope="session", params=templates.FAMILIES, ids=lambda family: family.name)
def family(request):
    """Each family in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_folder():
    """Write a model folder of a family that the test describes itself."""
    return write_folder


@pytest.fixture(scope="session")
def family_like():
    """Describe a family that differs from a known one."""
    return lambda name, **changes: dataclasses.replace(templates.BY_NAME[name], **changes)


@pytest.fixture(scope="session")
def conversation():
    """Make a conversation of (role, content[, other keys])."""
    return said
