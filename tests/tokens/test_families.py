"""What holds for every chat template: twenty families, random conversations, one set of properties."""

import pytest
from chat_oracles import (
    COMMON,
    FEW,
    conversations,
    decoded_runs,
    fitted,
    masked_text,
    plain_words,
    prepared_rows,
    replies,
    special_tokens,
    template_text,
    without_last_exchange,
    words_of,
)
from hypothesis import given

from penala.conversations.conversation import read_jsonl
from penala.errors import TokensError
from penala.tokens.mask import prove
from penala.tokens.prepare import PrepareSettings, prepare


def keeps_spaces(family):
    """Tell whether outer white space of a reply reaches the model just as it is."""
    return not (family.trims or family.lead or family.rstrip)


@COMMON
@given(conversation=conversations())
def test_supervised_are_the_replies_and_their_ends(family, tokenizer_of, folder_of, conversation):
    """Each run of supervised tokens, decoded, is one reply with its end of turn; the others are the template's."""
    tokenizer, conversation = tokenizer_of(family.name), fitted(family, conversation)
    tokens = tokenizer.training_tokens(conversation)
    runs = decoded_runs(folder_of(family.name), tokens.ids, tokens.labels, family.ends)

    assert len(runs) == len(replies(conversation))
    for reply, run in zip(replies(conversation), runs, strict=True):
        inner = run.removesuffix(family.tail)
        assert inner.strip() == reply.strip()
        if keeps_spaces(family) and family.prompt_is_prefix:
            assert inner == reply
    skeleton = template_text(tokenizer, conversation, family.ends, family.tail)
    assert words_of(masked_text(tokens)) == words_of(skeleton)
    prove(tokenizer, tokens)
    assert tokens.text == tokenizer.render(conversation.messages)
    assert "".join(tokens.texts) == tokens.text


@COMMON
@given(conversation=conversations())
def test_every_prompt_is_a_prefix_of_the_training_tokens(family, tokenizer_of, conversation):
    """What the endpoint asks with is, token for token, what training showed; the reply read back is the message."""
    tokenizer, conversation = tokenizer_of(family.name), fitted(family, conversation)
    tokens = tokenizer.training_tokens(conversation)
    assert all((turn.prompt_end is not None) == family.prompt_is_prefix for turn in tokens.turns)
    for turn in tokens.turns if family.prompt_is_prefix else ():
        prompt = tokenizer.prompt(conversation.messages[: turn.message])
        assert tokens.ids[: len(prompt)] == prompt

        reply = tokenizer.parse_reply(tokens.ids[len(prompt) :])
        said = conversation.messages[turn.message].content
        assert reply.content.strip() == said.strip()
        if keeps_spaces(family):
            assert reply.content == said


@COMMON
@given(conversation=conversations())
def test_special_tokens_are_the_templates_alone(family, tokenizer_of, folder_of, conversation):
    """As many of each, BOS and ends among them, as where nobody says anything odd."""
    tokenizer, conversation = tokenizer_of(family.name), fitted(family, conversation)
    ids, plain = (tokenizer.training_tokens(row).ids for row in (conversation, plain_words(conversation)))

    assert special_tokens(folder_of(family.name), ids) == special_tokens(folder_of(family.name), plain)


@FEW
@given(conversation=conversations())
def test_an_earlier_turn_is_the_beginning_of_a_later_one(family, tokenizer_of, conversation):
    """Where the rendering only grows with a conversation, so do ids and labels; where not, both masks are right."""
    tokenizer, conversation = tokenizer_of(family.name), fitted(family, conversation)
    shorter = without_last_exchange(conversation)
    if shorter is None:
        return
    whole, part = tokenizer.training_tokens(conversation), tokenizer.training_tokens(shorter)
    prove(tokenizer, part)
    last = max(n for n, label in enumerate(part.labels) if label >= 0) + 1
    if whole.text.startswith(part.text[: part.turns[-1].end]):
        assert whole.ids[:last] == part.ids[:last]
        assert whole.labels[:last] == part.labels[:last]
    else:
        assert family.name in ("qwen3", "gpt-oss"), "these write the last turn otherwise"


def test_what_is_cut_is_masked_as_rightly(family, folder_of, tokenizer_of, conversation, tmp_path):
    """A shortened row trains the replies that it kept, all of them and nothing else."""
    asked = [("user", "Kaya?"), ("assistant", "Jam </s><|im_end|>.")] * 4
    rows = [conversation(*asked), conversation(("user", "Hi"), ("assistant", "Hello."))]
    lengths = [len(tokens.ids) for tokens in tokenizer_of(family.name).training_tokens_of(rows)]
    splits = type("Splits", (), {"train": rows, "validation": [], "test": [], "held_out": (), "bad_rows": {}})
    splits.rows_in = 2
    settings = PrepareSettings(max_seq_length=lengths[0] - 1, on_too_long="cut_turns")

    figures = prepare(splits, folder_of(family.name), tmp_path / "out", settings, lambda event: None)

    assert (figures["ledger"]["rows"]["cut"], figures["ledger"]["rows"]["trained"]) == (1, 1)
    written = prepared_rows(tmp_path / "out" / "train.arrow")
    for row, (ids, labels) in zip(read_jsonl(tmp_path / "out" / "raw_data" / "train.jsonl"), written, strict=True):
        runs = decoded_runs(folder_of(family.name), ids, labels, family.ends)
        assert [run.removesuffix(family.tail).strip() for run in runs] == replies(row)
        assert len(ids) < lengths[0]


@pytest.mark.parametrize("reply", ["", " \n", "\u00a0"])
def test_an_empty_reply_is_its_end_or_is_refused(family, tokenizer_of, folder_of, conversation, reply):
    """What looks empty trains the end of turn at most, in its own turn and no other."""
    row = conversation(("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", reply))
    (tokens,) = tokenizer_of(family.name).training_tokens_of([row])
    if isinstance(tokens, TokensError):
        assert "nothing proves which tokens the assistant wrote" in tokens.what
        return
    prove(tokenizer_of(family.name), tokens)
    first, last = decoded_runs(folder_of(family.name), tokens.ids, tokens.labels, family.ends)
    assert first.strip().startswith("one")
    assert last.strip() == ""


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
