"""The originals of some twenty families, and TRL's masks for them, from TRL's wheel where it is installed."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from penala.errors import TokensError
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.labels import NO_LOSS
from penala.tokens.mask import prove

_TRL = importlib.util.find_spec("trl")
TEMPLATES = Path(_TRL.submodule_search_locations[0]) / "chat_templates" if _TRL else Path("nowhere")
NAMES = [
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gemma4", "gptoss", "lfm2", "lfm2_v2",
    "lfm2_2_5", "llama3", "llama3_1", "llama3_2", "muse_glimmer", "nemotron_3_nano", "nemotron_3_ultra", "phi3",
    "phi3_5", "qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_instruct_2507",
]  # fmt: skip
TOKEN = re.compile(r"<\|[a-zA-Z_]+\|>|<\uff5c[^\uff5c]+\uff5c>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>")
ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<\uff5cend▁of▁sentence\uff5c>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
)
pytestmark = pytest.mark.skipif(_TRL is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def folder(make_folder, family_like, tmp_path_factory):
    """Give the model folder of an original template: a small tokenizer with the special tokens that it writes."""

    def folder(name):
        source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        tokens = tuple(sorted({*TOKEN.findall(source), "<|endoftext|>", "<bos>"}))
        eos = next((end for end in ENDS if end in source), "<|endoftext|>")
        family = family_like("chatml", source=source, tokens=tokens, eos=eos, bos="<bos>")
        return make_folder(family, tmp_path_factory.mktemp("trl") / name)

    return folder


@pytest.fixture
def rows(conversation):
    """One and two exchanges, with outer spaces."""
    one = conversation(("user", "What is kaya?"), ("assistant", "A jam."))
    two = conversation(
        ("user", " Hi\n"), ("assistant", "\n Hello.\n"), ("user", "And?"), ("assistant", "More\n\nthen.")
    )
    return [one, two]


@pytest.mark.parametrize("name", NAMES)
def test_the_original_templates_are_masked_rightly(name, folder, rows):
    """The mask is proved, supervises the reply's text and, where the template allows it, goes on from the prompt."""
    tokenizer = ChatTokenizer.from_folder(folder(name))
    for row in rows:
        tokens = tokenizer.training_tokens(row)
        prove(tokenizer, tokens)
        text = "".join(text for text, label in zip(tokens.texts, tokens.labels, strict=True) if label != NO_LOSS)
        assert all(message.content.strip() in text for message in row.messages if message.role == "assistant")
        assert not any(message.content.strip() in text for message in row.messages if message.role == "user")
        for turn in tokens.turns:
            if turn.prompt_end is not None:
                prompt = tokenizer.prompt(row.messages[: turn.message])
                reply = tokenizer.parse_reply(tokens.ids[len(prompt) :])
                assert tokens.ids[: len(prompt)] == prompt
                assert reply.content.strip() == row.messages[turn.message].content.strip()


@pytest.mark.parametrize("name", [name for name in NAMES if (TEMPLATES / f"{name}_training.jinja").is_file()])
def test_trl_supervises_the_same_replies(name, folder, rows):
    """What TRL has more is white space, an end of document, or stands between the prompt's end and the reply."""
    from transformers import PreTrainedTokenizerFast

    tokenizer, other = ChatTokenizer.from_folder(folder(name)), PreTrainedTokenizerFast.from_pretrained(folder(name))
    tokens = tokenizer.training_tokens(rows[0])
    patched = (TEMPLATES / f"{name}_training.jinja").read_text(encoding="utf-8")
    trl = other.apply_chat_template(
        json.loads(json.dumps([message.as_dict() for message in rows[0].messages])),
        chat_template=patched,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    if trl["input_ids"] != tokens.ids:
        pytest.skip("TRL's training template renders another text, or this tokenizer joins the header with the reply")
    ours = [n for n, label in enumerate(tokens.labels) if label != NO_LOSS]
    theirs = [n for n, is_trained in enumerate(trl["assistant_masks"]) if is_trained]

    assert set(ours) <= set(theirs)
    assert all(tokens.texts[n].strip() in ("", "<|endoftext|>") for n in theirs if n > ours[-1])
    assert theirs[len([n for n in theirs if n < ours[0]]) :][: len(ours)] == ours


def test_a_template_that_ends_no_turn_is_refused(folder, rows):
    """GLM-4 ends a turn with the next one's header; TRL patches that in, here it is refused by name."""
    with pytest.raises(TokensError, match="ends no turn with a special token"):
        ChatTokenizer.from_folder(folder("glm4moe")).training_tokens(rows[0])
