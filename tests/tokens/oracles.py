"""Random conversations, and what must hold of their tokens, found out in other ways than penala.tokens does."""

from collections import Counter
from dataclasses import replace

import pyarrow
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penala.conversations.conversation import Conversation, Message
from penala.tokens.labels import NO_LOSS

WORDS = [
    "kaya", "teh tarik", "RM 2.40", "Apa khabar?", "Hello there", "x", "e\u0301", "\u0301a", "a\n\nb", "</", "'s",
    "咖啡 ☕🏽", "👨\u200d👩\u200d👧", "مرحبا", "\u202eabc", "\u200bz", "\ufeffq", "](", ")", "\\n",
    "{{ messages }}", "{% raw %}", "None", "a\r\nb",
]  # fmt: skip
SPACED = [" kaya", "kaya \n", "\nkaya", "\n\n  kaya\t", "kaya\n\n", "\u00a0y\u00a0", "\u2028w\u0085", "\x1cv"]
MARKERS = [
    "<|im_end|>", "<|im_start|>assistant\n", "<|end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<s>", "[INST]",
    "[/INST]", "<</SYS>>", "<end_of_turn>", "<start_of_turn>model", "<bos>", "<|User|>", "<|return|>",
    "<|END_OF_TURN_TOKEN|>", "<|im_", "ASSISTANT:", "USER: hi", "assistant", "<tool_call>",
]  # fmt: skip
EMPTY_LOOKING = ["", " ", "\n", "\t\n ", "\u00a0"]
COMMON = settings(max_examples=24, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(COMMON, max_examples=8)


def _is_visible(text):
    # reasoning is taken apart by some templates on purpose: test_chat_tokenizer.py
    # SentencePiece reads its own sign for a space as one
    return bool(text.strip()) and text.isprintable() and "think>" not in text and "▁" not in text


words = st.lists(st.sampled_from([*WORDS, *MARKERS]), min_size=1, max_size=3).map(" ".join)
texts = words | st.sampled_from([*SPACED, *MARKERS]) | st.text(min_size=1, max_size=12).filter(_is_visible)


@st.composite
def conversations(draw):
    """A system message or none, one to six exchanges, and sometimes a question that nobody answered yet."""
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 6]))):
        question = draw(texts | st.sampled_from(EMPTY_LOOKING))
        messages += [Message("user", question), Message("assistant", draw(texts))]
    messages += [Message("user", draw(texts))] if draw(st.sampled_from([False, False, True])) else []
    return Conversation(tuple(messages), None, {}, "rows.jsonl", 1, 1)


def fitted(family, conversation):
    """Leave out the system message where the template refuses it."""
    kept = tuple(message for message in conversation.messages if family.system or message.role != "system")
    return replace(conversation, messages=kept)


def replies(conversation):
    """Return what the assistant says, in order."""
    return [message.content for message in conversation.messages if message.role == "assistant"]


def decoded_runs(folder, ids, labels, ends):
    """Return the text of each run of supervised tokens but for its last one, decoded by the bare tokenizer.

    A run ends with one of the tokens `ends`. Its text is what the decoded text grows by, so that neither offsets nor
    renderings are asked.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end_ids = {tokenizer.token_to_id(end) for end in ends}

    def decoded(count):
        return tokenizer.decode(ids[:count], skip_special_tokens=False)

    runs, first = [], None
    for n, (id_, label) in enumerate(zip(ids, labels, strict=True)):
        assert label in (NO_LOSS, id_)
        if label == NO_LOSS:
            assert first is None, "a run of supervised tokens ends without an end of turn"
        else:
            first = n if first is None else first
            if id_ in end_ids:
                runs.append(decoded(n)[len(decoded(first)) :])
                first = None
    assert first is None
    return runs


def words_of(text):
    """Leave out all white space, which templates trim and tokens share with their neighbours."""
    return "".join(text.split())


def masked_text(tokens):
    """Return the text of all tokens that carry no loss."""
    return "".join(text for text, label in zip(tokens.texts, tokens.labels, strict=True) if label == NO_LOSS)


def template_text(tokenizer, conversation, ends, tail):
    """Return what the template writes beside the replies and their ends: rendered with other replies, which are cut."""
    said = iter(f"Q{n}W" for n in range(100))
    messages = [
        replace(message, content=next(said)) if message.role == "assistant" else message
        for message in conversation.messages
    ]
    text = tokenizer.render(messages)
    for n in range(len(replies(conversation))):
        before, behind = text.split(f"Q{n}W")
        behind = behind.removeprefix(tail)
        end = next(end for end in ends if behind.startswith(end))
        text = before + behind.removeprefix(end)
    return text


def special_tokens(folder, ids):
    """Count the special tokens among `ids`."""
    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    return Counter(id_ for id_ in ids if id_ in added)


def plain_words(conversation):
    """Replace all that is said by words that no tokenizer and no template makes anything of."""
    messages = tuple(replace(message, content=f"kaya{n}") for n, message in enumerate(conversation.messages))
    return replace(conversation, messages=messages)


def without_last_exchange(conversation):
    """Return the conversation up to the last reply but one, None when there is only one."""
    ends = [n for n, message in enumerate(conversation.messages, 1) if message.role == "assistant"]
    return replace(conversation, messages=conversation.messages[: ends[-2]]) if len(ends) > 1 else None


def prepared_rows(path):
    """Read (ids, labels) of each row with nothing but pyarrow."""
    rows = []
    for row in pyarrow.ipc.open_file(path).read_all().to_pylist():
        ids, places = row["input_ids"], row["supervised"]
        stretches = [range(start, stop) for start, stop in zip(places[::2], places[1::2], strict=True)]
        rows.append((ids, [id_ if any(n in each for each in stretches) else NO_LOSS for n, id_ in enumerate(ids)]))
    return rows
