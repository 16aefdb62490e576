"""The originals of some twenty-five families, and TRL's masks for them, from TRL's wheel where it is installed.

Only its files are read. What TRL trains and penala does not is white space and an end of document behind a turn, and
what the template writes before a reply (a header, an empty block of reasoning).
"""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest
from chat_oracles import (
    FEW,
    conversations,
    decoded_runs,
    fitted,
    masked_text,
    plain_words,
    replies,
    special_tokens,
    template_text,
    words_of,
)
from hypothesis import given

from penala.errors import TokensError
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.labels import NO_LOSS
from penala.tokens.mask import prove

_TRL = importlib.util.find_spec("trl")
TEMPLATES = Path(_TRL.submodule_search_locations[0]) / "chat_templates" if _TRL else Path("nowhere")
# these read content as a list of parts with types, or (GLM-4) end a turn with the next one's header
NOT_OURS = {"idefics3", "smolvlm", "llava_next", "glm4moe"}
NAMES = sorted({path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training")} - NOT_OURS)
PATCHED = [name for name in NAMES if (TEMPLATES / f"{name}_training.jinja").is_file()]
# their training templates show reasoning in every turn, where the originals show the last one's
REWRITTEN = {"qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6"}
TOKEN = re.compile(r"<\|[a-zA-Z_]+\|>|<\uff5c[^\uff5c]+\uff5c>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>")
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<\uff5cend▁of▁sentence\uff5c>", "<|END_OF_TURN_TOKEN|>", "<|return|>"
)  # fmt: skip
CALL = {"type": "function", "id": "call00001", "function": {"name": "price", "arguments": {"dish": "kaya"}}}
PARAMETERS = {"type": "object", "properties": {"dish": {"type": "string", "description": "its name"}}, "required": []}
TOOL = {"type": "function", "function": {"name": "price", "description": "Price of a dish", "parameters": PARAMETERS}}
pytestmark = pytest.mark.skipif(_TRL is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def original(make_folder, family_like, tmp_path_factory):
    """Give family and model folder of an original template: a small tokenizer with the special tokens it writes."""
    made = {}

    def original(name):
        if name not in made:
            source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
            tokens = tuple(sorted({*TOKEN.findall(source), "<|endoftext|>", "<bos>"}))
            eos = next((end for end in ENDS if end in source), "<|endoftext|>")
            system = "System role not supported" not in source
            family = family_like("chatml", source=source, tokens=tokens, eos=eos, bos="<bos>", system=system)
            folder = make_folder(family, tmp_path_factory.mktemp("trl") / name)
            made[name] = family, folder, ChatTokenizer.from_folder(folder)
        return made[name]

    return original


@pytest.fixture
def rows(conversation):
    """Exchanges with outer spaces, a system message, reasoning beside the text and calls of a tool."""
    result = ("tool", "RM 2", {"name": "price", "tool_call_id": "call00001"})
    asked = [("user", "Price?"), ("assistant", "", {"tool_calls": [CALL]})]
    return {
        "one": conversation(("user", "What is kaya?"), ("assistant", "A jam.")),
        "two": conversation(
            ("user", " Hi\n"), ("assistant", "\n Hello.\n"), ("user", "And?"), ("assistant", "More\n\nthen.")
        ),
        "system": conversation(("system", "Brief."), ("user", "Tea?"), ("assistant", "Teh ☕🏽"), ("user", "Or")),
        "reasoning": conversation(("user", "Hi"), ("assistant", "two", {"reasoning_content": "hmm so"})),
        "call": conversation(*asked, tools=(TOOL,)),
        "result": conversation(*asked, result, ("assistant", "RM 2."), tools=(TOOL,)),
    }


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(conversation=conversations())
def test_the_original_templates_are_masked_rightly(name, original, conversation):
    """Decoded runs are the replies, the others the template's; prompts are prefixes and special tokens its own."""
    family, folder, tokenizer = original(name)
    conversation, ends = fitted(family, conversation), sorted(tokenizer.habits.turn_ends)
    tail = "<|END_RESPONSE|>" if name == "cohere2" else ""
    (tokens,) = tokenizer.training_tokens_of([conversation])
    if isinstance(tokens, TokensError):
        assert "No user query found" in tokens.what, "Qwen3.5 wants a question that says something"
        return

    prove(tokenizer, tokens)
    runs = decoded_runs(folder, tokens.ids, tokens.labels, ends)
    assert [run.removesuffix(tail).strip() for run in runs] == [reply.strip() for reply in replies(conversation)]
    assert words_of(masked_text(tokens)) == words_of(template_text(tokenizer, conversation, ends, tail))
    plain = tokenizer.training_tokens(plain_words(conversation))
    assert special_tokens(folder, tokens.ids) == special_tokens(folder, plain.ids)
    for turn in tokens.turns:
        if turn.prompt_end is not None:
            prompt = tokenizer.prompt(conversation.messages[: turn.message])
            reply = tokenizer.parse_reply(tokens.ids[len(prompt) :])
            assert tokens.ids[: len(prompt)] == prompt
            assert reply.content.strip() == conversation.messages[turn.message].content.strip()


@pytest.mark.parametrize("name", PATCHED)
def test_trl_supervises_the_same_replies(name, original, rows):
    """Character by character: TRL trains all that penala trains, and more only where the template wrote."""
    from transformers import PreTrainedTokenizerFast

    _, folder, tokenizer = original(name)
    other = PreTrainedTokenizerFast.from_pretrained(folder)
    compared = []
    for kind, row in rows.items():
        (tokens,) = tokenizer.training_tokens_of([row])
        if isinstance(tokens, TokensError):
            assert kind not in ("one", "two")
            assert "refuses" in tokens.what or "messages[1]" in tokens.what
            continue
        text, theirs = _trl(other, name, row)
        if text != tokens.text:
            assert name in REWRITTEN
            continue
        ours = _characters(zip(tokens.encoded.starts, tokens.encoded.ends, tokens.labels, strict=True))
        assert ours <= theirs
        assert all(_is_the_templates(tokens, at) for at in theirs - ours)
        compared.append(kind)

    assert {"one", "reasoning"} <= set(compared)
    assert name in REWRITTEN or {"two", "one"} <= set(compared)


def _trl(tokenizer, name, row):
    """Return the text of TRL's training template, and the characters that it would train."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {
            "chat_template": (TEMPLATES / f"{name}_training.jinja").read_text(encoding="utf-8"),
            "tools": list(row.tools) if row.tools else None,
        }
        messages = [message.as_dict() for message in row.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        encoded = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, **options
        )
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    masks = (0 if is_trained else NO_LOSS for is_trained in encoded["assistant_masks"])
    return text, _characters((start, end, mask) for (start, end), mask in zip(offsets, masks, strict=True))


def _characters(tokens):
    return {at for start, end, label in tokens if label != NO_LOSS for at in range(start, end)}


def _is_the_templates(tokens, at):
    """Tell whether a character lies outside of every turn that is trained, and of what anybody else says."""
    in_turn = any(turn.start <= at < turn.end for turn in tokens.turns)
    return not in_turn and not any(start <= at < end for start, end in tokens.others)


@pytest.mark.parametrize(("name", "more"), [("phi3", "\n|\n<|endoftext|>"), ("gemma", "\n|\n"), ("llama3", "|")])
def test_trl_also_trains_what_stands_behind_a_turn(name, more, original, rows):
    """Behind the end of turn TRL trains a newline and Phi-3's end of document; penala trains neither."""
    from transformers import PreTrainedTokenizerFast

    _, folder, tokenizer = original(name)
    tokens = tokenizer.training_tokens(rows["two"])
    text, theirs = _trl(PreTrainedTokenizerFast.from_pretrained(folder), name, rows["two"])
    first, last = tokens.turns
    behind = [range(first.end, tokens.others[1][0]), range(last.end, len(text))]

    assert "|".join("".join(text[at] for at in part if at in theirs) for part in behind) == more
    assert not any(at in _characters(zip(tokens.encoded.starts, tokens.encoded.ends, tokens.labels, strict=True))
                   for part in behind for at in part)  # fmt: skip


def test_a_template_that_ends_no_turn_is_refused(original, rows):
    """GLM-4 ends a turn with the next one's header; TRL patches that in, here it is refused by name."""
    with pytest.raises(TokensError, match="ends no turn with a special token"):
        original("glm4moe")[2].training_tokens(rows["one"])


def test_reasoning_that_an_end_of_turn_closes_is_refused(original, rows):
    """gpt-oss closes its reasoning with the token that ends its replies, so a server would stop there."""
    _, _, tokenizer = original("gptoss")

    with pytest.raises(TokensError, match=r"rows.jsonl:7: token \d+ \('<\|end\|>', \d+\) stands inside messages\[1\]"):
        prove(tokenizer, tokenizer.training_tokens(rows["reasoning"]))


@pytest.mark.parametrize("name", ["qwen3_5_think", "nemotron_3_nano", "deepseekv3", "qwen3"])
def test_the_answer_behind_dropped_reasoning_is_trained(name, original, conversation):
    """Of reasoning inside the text, earlier turns keep only the answer; it is found though no prompt precedes it."""
    _, folder, tokenizer = original(name)
    thought = "<think>\nhm\n</think>\n\n"
    row = conversation(("user", "a"), ("assistant", f"{thought}one"), ("user", "b"), ("assistant", f"{thought}two"))

    tokens = tokenizer.training_tokens(row)

    prove(tokenizer, tokens)
    first, last = decoded_runs(folder, tokens.ids, tokens.labels, tokenizer.habits.turn_ends)
    assert first.strip() == "one"
    assert last.endswith("two")
