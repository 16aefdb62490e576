"""The template lock: what it was born with it proves later, and any change is named."""

import json
import shutil
from datetime import datetime

import pytest

from penala.errors import TemplateMismatch, TokensError
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.lock import FILE, TemplateLock


@pytest.fixture
def folder(folder_of, tmp_path):
    """A model folder that a test may spoil."""
    return shutil.copytree(folder_of("chatml"), tmp_path / "model")


@pytest.fixture
def lock(folder, conversation):
    rows = [conversation(("user", f"Soalan {n}"), ("assistant", "Jawapan ☕")) for n in range(5)]
    return TemplateLock.make(ChatTokenizer.from_folder(folder), rows)


def test_a_saved_lock_verifies_the_folder_that_it_was_made_of(lock, folder):
    """Saved and loaded it is the same lock, and the untouched folder and tokenizer pass."""
    lock.save(folder / FILE)
    loaded = TemplateLock.load(folder / FILE)

    assert loaded == lock
    assert loaded.digest == lock.digest
    loaded.verify(folder)
    loaded.verify(ChatTokenizer.from_folder(folder))
    assert not list(folder.glob("*.tmp"))


def test_the_lock_holds_what_decides_the_tokens(lock):
    """Templates, special tokens, BOS and ends, files, and golden renderings of fixed conversations and of the data."""
    assert lock.special_tokens == {"eos_token": "<|im_end|>"}
    assert (lock.policy["bos"], lock.policy["turn_ends"]) == (None, ["<|im_end|>"])
    assert list(lock.files) == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert [golden.messages[0]["content"] for golden in lock.goldens[-3:]] == ["Soalan 0", "Soalan 1", "Soalan 2"]
    assert sum(golden.prompt for golden in lock.goldens) == 5


def test_the_bos_of_a_template_is_policy(tokenizer_of):
    """A template that begins with BOS says so in the lock."""
    assert TemplateLock.make(tokenizer_of("llama-3"), []).policy["bos"] == "<|begin_of_text|>"


def test_another_template_is_refused_with_its_first_token(lock, folder):
    """A header in other words differs where it begins, and the message says what stands in its place."""
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_end|>\n", "<|im_end|>"))

    with pytest.raises(TemplateMismatch) as caught:
        lock.verify(folder)

    assert "golden rendering 1 differs at token" in caught.value.what
    assert "'Ċ' (" in caught.value.what
    assert "'<|im_start|>' (" in caught.value.what
    assert caught.value.where == str(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_one_changed_byte_is_refused(lock, folder, name):
    """Each byte of each file counts, also one that changes no golden rendering."""
    content = (folder / name).read_bytes()
    for at in (len(content) // 3, len(content) - 1):
        (folder / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(TemplateMismatch):
            lock.verify(folder)
    (folder / name).write_bytes(content + b"\n")
    with pytest.raises(TemplateMismatch, match=r"golden|templates|files"):
        lock.verify(folder)


def test_other_special_tokens_and_ends_are_refused(lock, folder):
    """Another EOS in the generation config, another token in the tokenizer's config: each is named."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    with pytest.raises(TemplateMismatch, match=r"policy.end_ids is \[7, \d+\] here and was \[\d+\] in training"):
        lock.verify(folder)
    (folder / "generation_config.json").unlink()

    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<|im_start|>"}))
    with pytest.raises(TemplateMismatch, match=r"special_tokens.bos_token is <\|im_start\|> here and was missing"):
        lock.verify(folder)


def test_a_folder_without_tokenizer_is_a_mismatch(lock, folder):
    """What cannot be read cannot be what was trained."""
    (folder / "tokenizer.json").unlink()

    with pytest.raises(TemplateMismatch, match=r"there is no tokenizer.json; use the tokenizer"):
        lock.verify(folder)


def test_a_template_that_cannot_be_read_is_a_mismatch_of_its_folder(lock, folder):
    """The error of the template language names a line; the mismatch says of which model."""
    (folder / "chat_template.jinja").write_text("{% if %}")

    with pytest.raises(TemplateMismatch, match=r"line 1 of the chat template cannot be read") as caught:
        lock.verify(folder)
    assert caught.value.where == str(folder)


def test_a_template_that_now_refuses_or_accepts_is_a_mismatch(folder_of, tmp_path):
    """Whether a system message is taken belongs to the template."""
    mistral = shutil.copytree(folder_of("mistral"), tmp_path / "m")
    lock = TemplateLock.make(ChatTokenizer.from_folder(mistral), [])
    path = mistral / "chat_template.jinja"
    path.write_text(path.read_text().replace("message['role'] == 'assistant'", "message['role'] != 'tool'"))

    with pytest.raises(TemplateMismatch, match="was refused in training and is not here"):
        lock.verify(mistral)
    with pytest.raises(TemplateMismatch, match="is refused here"):
        TemplateLock.make(ChatTokenizer.from_folder(mistral), []).verify(folder_of("mistral"))


def test_a_row_with_an_empty_list_of_tools_has_none(folder, conversation):
    """To every reader of the lock such a row is one without tools: transformers tells an empty list from none."""
    row = conversation(("user", "Soalan"), ("assistant", "Jawapan"), tools=())

    assert TemplateLock.make(ChatTokenizer.from_folder(folder), [row]).goldens[-1].tools is None


def test_the_first_token_that_differs_is_named_whatever_changed(lock, folder):
    """Another token in the tokenizer is named by its place in a golden rendering, not by the file alone."""
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    vocabulary = stored["model"]["vocab"]
    vocabulary["u"], vocabulary["s"] = vocabulary["s"], vocabulary["u"]
    path.write_text(json.dumps(stored))

    with pytest.raises(
        TemplateMismatch, match=r"golden rendering \d+ differs at token \d+: '.+' \(\d+\) in training, '"
    ):
        lock.verify(folder)


def test_a_changed_or_missing_lock_is_refused(lock, tmp_path):
    """A lock that was edited proves nothing."""
    with pytest.raises(TokensError, match="the model has no template lock"):
        TemplateLock.load(tmp_path / FILE)
    lock.save(tmp_path / FILE)
    text = (tmp_path / FILE).read_text()

    (tmp_path / FILE).write_text(text.replace("Soalan 1", "Soalan 9"))
    with pytest.raises(TemplateMismatch, match="the template lock was changed"):
        TemplateLock.load(tmp_path / FILE)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(TokensError, match="is no template lock"):
        TemplateLock.load(tmp_path / FILE)


def test_a_template_that_tells_the_time_is_locked_all_the_same(make_folder, family_like, tmp_path):
    """Golden renderings are made at one moment for ever, so that they hold tomorrow; prompts tell the true time."""
    source = "<|im_start|>{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    folder = make_folder(family_like("chatml", source=source), tmp_path)
    lock = TemplateLock.make(ChatTokenizer.from_folder(folder), [])

    assert "2025-01-02" in (lock.goldens[0].text or "")
    today = datetime.now().strftime("%Y-%m-%d")
    assert today in ChatTokenizer.from_folder(folder).render([{"role": "user", "content": "x"}])
    lock.verify(folder)


def test_the_digest_has_not_moved():
    """Packages carry it: when it changes, the layout's name changes with it."""
    empty = TemplateLock(templates={}, special_tokens={}, policy={}, files={}, goldens=[])

    assert empty.digest.startswith("39c6d958")
