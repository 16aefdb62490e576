"""What holds for every chat template: twenty families, random conversations, one set of properties."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penala.conversations.conversation import Conversation, Message
from penala.tokens.labels import NO_LOSS
from penala.tokens.mask import prove

WORDS = [
    "kaya",
    "teh tarik",
    "RM 2.40",
    "Apa khabar?",
    "Hello there",
    "x",
    "咖啡 ☕🏽",
    "e\u0301",
    "a\n\nb",
    "</",
    "'s",
]
SPACED = [" kaya", "kaya \n", "\nkaya", "\n\n  kaya\t", "kaya\n\n"]
COMMON = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def _is_visible(text):
    # reasoning is taken apart by some templates on purpose: test_chat_tokenizer.py
    return bool(text.strip()) and text.isprintable() and "think>" not in text


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
texts = words | st.sampled_from(SPACED) | st.text(min_size=1, max_size=12).filter(_is_visible)


@st.composite
def conversations(draw, contents=texts):
    """A system message or none, then one to three exchanges."""
    messages = [Message("system", draw(contents), {})] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(contents), {}), Message("assistant", draw(contents), {})]
    return Conversation(tuple(messages), None, {}, "rows.jsonl", 1, 1)


def fitted(family, conversation):
    """Leave out the system message where the template refuses it."""
    messages = conversation.messages
    return (
        conversation
        if family.system
        else replace(conversation, messages=tuple(m for m in messages if m.role != "system"))
    )


def keeps_spaces(family):
    """Tell whether outer white space of a reply reaches the model just as it is."""
    return not (family.trims or family.lead or family.rstrip) and family.prompt_is_prefix


def runs(tokens):
    """Return the supervised texts, split behind each end of turn."""
    found, run = [], ""
    ends = {tokens.text[turn.end_token : turn.end] for turn in tokens.turns}
    for text, label in zip(tokens.texts, tokens.labels, strict=True):
        if label == NO_LOSS:
            continue
        run += text
        if text.strip() in ends:
            found, run = [*found, run], ""
    return [*found, run] if run else found


@COMMON
@given(conversation=conversations())
def test_supervised_are_the_replies_and_their_ends(family, tokenizer_of, conversation):
    """Each run of supervised tokens is one reply with its end of turn; the texts of all tokens are the rendering."""
    conversation = fitted(family, conversation)
    tokens = tokenizer_of(family.name).training_tokens(conversation)

    replies = [message.content for message in conversation.messages if message.role == "assistant"]
    assert len(replies) == len(runs(tokens))
    for reply, run in zip(replies, runs(tokens), strict=True):
        end = next(end for end in family.ends if run.rstrip().endswith(end))
        inner = run.rstrip().removesuffix(end).removesuffix(family.tail)
        assert inner.strip() == reply.strip()
        if keeps_spaces(family):
            assert inner == reply
    prove(tokenizer_of(family.name), tokens)
    assert tokens.text == tokenizer_of(family.name).render(conversation.messages)
    assert "".join(tokens.texts) == tokens.text


@COMMON
@given(conversation=conversations())
def test_every_prompt_is_a_prefix_of_the_training_tokens(family, tokenizer_of, conversation):
    """What the endpoint asks with is, token for token, what training showed; the reply read back is the message."""
    if not family.prompt_is_prefix:
        pytest.skip("its prompts open reasoning that its conversations do not show")
    tokenizer, conversation = tokenizer_of(family.name), fitted(family, conversation)
    tokens = tokenizer.training_tokens(conversation)
    for turn in tokens.turns:
        prompt = tokenizer.prompt(conversation.messages[: turn.message])
        assert tokens.ids[: len(prompt)] == prompt

        reply = tokenizer.parse_reply(tokens.ids[len(prompt) :])
        said = conversation.messages[turn.message].content
        assert reply.content.strip() == said.strip()
        if keeps_spaces(family):
            assert reply.content == said


def test_a_bos_comes_once_where_the_template_wants_one(family, tokenizer_of, id_of, conversation):
    """A BOS is what the template writes: none is added by the tokenizer, none is lost."""
    tokens = tokenizer_of(family.name).training_tokens(conversation(("user", "Hi"), ("assistant", "Hello")))

    begins = [token for token in tokens.ids if family.bos and token == id_of(family.name, family.bos)]
    assert begins == ([tokens.ids[0]] if family.bos else [])


def test_end_of_turn_and_declared_end_both_end_a_reply(family, tokenizer_of, id_of):
    """Phi-3 declares <|endoftext|> and ends its turns with <|end|>: a server has to stop at either."""
    tokenizer = tokenizer_of(family.name)

    assert tokenizer.habits.turn_ends == set(family.ends)
    assert tokenizer.end_ids == {id_of(family.name, token) for token in (*family.ends, family.eos)}
