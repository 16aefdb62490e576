"""The prepared folder: every row accounted for, nothing cut or dropped that was not allowed, all problems at once."""

import json
from dataclasses import dataclass, field, replace

import pytest
from chat_oracles import prepared_rows

from penala.conversations.conversation import read_jsonl
from penala.errors import DataError
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.labels import NO_LOSS, Supervision
from penala.tokens.lock import TemplateLock
from penala.tokens.prepare import PrepareSettings, prepare

CLASSES = ("trained", "masked", "cut", "dropped", "held_out")


@dataclass
class Rows:
    """Splits as penala.conversations.split makes them."""

    train: list
    validation: list = field(default_factory=list)
    test: list = field(default_factory=list)
    held_out: frozenset = frozenset()
    bad_rows: dict = field(default_factory=dict)

    @property
    def rows_in(self):
        held_out = sum(len(getattr(self, name)) for name in self.held_out)
        return len(self.train) + held_out + sum(self.bad_rows.values())


@pytest.fixture
def chat(conversation):
    """Make a conversation of so many exchanges, in line `line`."""
    return lambda line, exchanges=1: conversation(
        ("system", "Brief."), *[("user", "What is kaya?"), ("assistant", f"Jam {line}.")] * exchanges, line=line
    )


class Run:
    """Prepares splits for the model of a family; keeps the folder and the reports of the last time."""

    def __init__(self, folder_of, tmp_path):
        self.folder_of, self.tmp_path = folder_of, tmp_path

    def __call__(self, splits, name="out", family="chatml", **settings):
        self.events, self.out = [], self.tmp_path / name
        return prepare(splits, self.folder_of(family), self.out, PrepareSettings(**settings), self.events.append)


@pytest.fixture
def run(folder_of, tmp_path):
    return Run(folder_of, tmp_path)


def test_the_folder_holds_what_training_and_serving_read(run, chat, tokenizer_of):
    """Ids and labels, the rows as conversations, the tokenizer, its lock, the ledger and the settings."""
    held = [chat(4), chat(5)]
    rows = Rows(
        train=[chat(n) for n in (1, 2, 3)],
        validation=held[:1],
        test=held[1:],
        held_out=frozenset({"validation", "test"}),
    )
    figures = run(rows)
    tokens = tokenizer_of("chatml").training_tokens(chat(2))

    assert prepared_rows(run.out / "train.arrow")[1] == (tokens.ids, list(tokens.labels))
    assert [len(prepared_rows(run.out / f"{name}.arrow")) for name in ("train", "validation", "test")] == [3, 1, 1]
    assert list(read_jsonl(run.out / "raw_data" / "train.jsonl")) == rows.train
    TemplateLock.load(run.out / "template_lock.json").verify(run.out)
    assert ChatTokenizer.from_folder(run.out).max_length == 2048
    assert json.loads((run.out / "preprocess_args.json").read_text())["limit"] == 2048
    ledger = json.loads((run.out / "ledger.json").read_text())
    assert ledger["rows"] == {"in": 5, "trained": 3, "masked": 0, "cut": 0, "dropped": 0, "held_out": 2}
    assert figures["ledger"] == {key: ledger[key] for key in ("rows", "tokens", "reasons")}
    assert figures["tokens"]["train"] == {"total": 3 * len(tokens.ids), "supervised": 3 * tokens.num_supervised}
    assert figures["lengths"] == {"p50": len(tokens.ids), "p90": len(tokens.ids), "max": len(tokens.ids)}
    assert run.events[-1] == {"event": "progress", "done": 5, "total": 5, "unit": "conversations"}


def test_without_a_test_split_there_is_no_test_file(run, chat):
    """A split that does not exist leaves no file; validation is always there, and may be empty."""
    run(Rows(train=[chat(1)]))

    assert prepared_rows(run.out / "validation.arrow") == []
    assert not (run.out / "test.arrow").exists()


def test_the_same_rows_give_the_same_bytes(run, chat):
    """Outputs are found by their content: no time and no path is in them."""
    contents = []
    for name in ("one", "two"):
        run(Rows(train=[chat(1), chat(2, 2)], validation=[chat(3)]), name)
        contents.append({p.relative_to(run.out): p.read_bytes() for p in run.out.rglob("*") if p.is_file()})

    assert contents[0] == contents[1]


def test_too_long_rows_are_an_error_that_lists_them_all(run, chat):
    """Every row that is too long is named with its tokens, in every split; twenty are shown."""
    rows = Rows(train=[chat(n, 3) for n in range(1, 26)], validation=[chat(99, 3)])
    with pytest.raises(DataError) as caught:
        run(rows, max_seq_length=40)

    message = str(caught.value)
    assert "26 rows cannot be trained" in message
    assert message.count("rows.jsonl:") == 20
    assert "rows.jsonl:20:" in message
    assert "tokens, the limit is 40" in message
    assert "and 6 more" in message
    assert message.endswith("set on_too_long to cut_turns or drop, or raise max_seq_length")


def test_cut_turns_keeps_whole_turns(run, chat, tokenizer_of):
    """The end is left out, the system message and the first turns stay; what was cut is counted and named."""
    long = chat(1, 4)
    whole = tokenizer_of("chatml").training_tokens(long)
    limit = len(whole.ids) - 1
    figures = run(Rows(train=[long, chat(2)]), max_seq_length=limit, on_too_long="cut_turns")

    kept = next(read_jsonl(run.out / "raw_data" / "train.jsonl"))
    assert kept.messages == long.messages[:-2]
    ids, labels = prepared_rows(run.out / "train.arrow")[0]
    assert ids == whole.ids[: len(ids)]
    assert labels[-2] != NO_LOSS
    assert figures["ledger"]["rows"]["cut"] == 1
    assert figures["ledger"]["tokens"]["cut"] == len(whole.ids) - len(ids)
    changed = json.loads((run.out / "ledger.json").read_text())["changed_rows"]
    assert changed == [
        {"split": "train", "file": "rows.jsonl", "line": 1, "messages": 9, "kept": 7,
         "tokens_removed": len(whole.ids) - len(ids)}
    ]  # fmt: skip


def test_a_first_turn_that_does_not_fit_cannot_be_cut(run, chat, tokenizer_of):
    """Nothing is dropped when only cutting was allowed."""
    row = chat(1, 4)
    whole, first = (
        len(tokenizer_of("chatml").training_tokens(one).ids) for one in (row, replace(row, messages=row.messages[:3]))
    )
    counts = f"{whole} tokens, {first} in its first turn already, the limit is 20"
    with pytest.raises(
        DataError, match=rf"rows.jsonl:1: {counts}; for rows that are too long, set on_too_long to drop"
    ):
        run(Rows(train=[row]), max_seq_length=20, on_too_long="cut_turns")


def test_weights_decide_whether_a_cut_row_is_still_one(run, conversation):
    """One that is masked by wish is cut as any other; one whose only trained turn would be cut off is refused so."""
    turns = [("user", "a"), ("assistant", "b", {"weight": 0}), ("user", "c"), ("assistant", "d " * 40)]
    trained, masked = conversation(*turns), conversation(*turns[:3], (*turns[3], {"weight": 0}))

    with pytest.raises(DataError, match=r"rows.jsonl:7: \d+ tokens, of which none that fits is trained, the li"):
        run(Rows(train=[trained]), max_seq_length=40, on_too_long="cut_turns")
    ledger = run(Rows(train=[masked]), max_seq_length=40, on_too_long="cut_turns")["ledger"]

    assert ledger["rows"]["masked"] == ledger["rows"]["in"] == 1
    assert next(read_jsonl(run.out / "raw_data" / "train.jsonl")).messages == masked.messages[:2]


def test_a_long_row_without_a_reply_is_refused_for_that(run, conversation):
    """There is nothing to cut it at."""
    with pytest.raises(DataError, match=r"rows.jsonl:7: no token is supervised"):
        run(Rows(train=[conversation(("user", "a " * 40))]), max_seq_length=20, on_too_long="cut_turns")


def test_every_row_and_token_is_in_one_class(run, chat, conversation):
    """in = trained + masked + cut + dropped + held_out, for rows and for tokens, whatever happens to a row."""
    masked = conversation(("user", "a"), ("assistant", "b", {"weight": 0}))
    held = [chat(7), chat(8, 9)]
    rows = Rows(
        train=[chat(1), chat(2, 9), masked],
        validation=held,
        held_out=frozenset({"validation"}),
        bad_rows={"no_user": 2, "broken_json": 1},
    )
    ledger = run(rows, max_seq_length=60, on_too_long="drop")["ledger"]

    assert ledger["rows"] == {"in": 8, "trained": 1, "masked": 1, "cut": 0, "dropped": 4, "held_out": 2}
    for counts in (ledger["rows"], ledger["tokens"]):
        assert counts["in"] == sum(counts[name] for name in CLASSES)
    assert ledger["tokens"]["held_out"] > ledger["tokens"]["trained"] > 0
    assert {reason: n["rows"] for reason, n in ledger["reasons"]["dropped"].items()} == {
        "no_user": 2, "broken_json": 1, "too_long": 1
    }  # fmt: skip
    assert ledger["reasons"]["masked"]["weight_0"]["rows"] == 1
    assert {"event": "note", "text": "too long, dropped (rows: 2)"} in run.events


def test_rows_without_a_provable_mask_are_listed_with_the_others(run, chat, conversation):
    """A row that the template refuses, one without a reply and one that is too long are one error."""
    refused = conversation(("system", "s"), ("user", "a"), ("assistant", "b"), line=3)
    silent = conversation(("user", "a"), line=4)
    long = conversation(("user", "a b c " * 40), ("assistant", "b"), line=5)
    with pytest.raises(DataError) as caught:
        run(Rows(train=[refused, silent, long]), family="mistral", max_seq_length=30)

    message = str(caught.value)
    assert "rows.jsonl:3: the chat template refuses the conversation: Only user and assistant" in message
    assert "rows.jsonl:4: no token is supervised" in message
    assert "rows.jsonl:5: " in message


def test_what_is_not_trained_as_said_is_noted(run, chat, conversation):
    """What the template leaves out, and prompts that no row begins with, are said with the number of rows."""
    row = conversation(("user", "a", {"name": "Mei"}), ("assistant", "b"))
    run(Rows(train=[row, chat(1)]), family="deepseek", max_seq_length=10**7)
    notes = [event["text"] for event in run.events if event["event"] == "note"]

    assert "max_seq_length is 10,000,000, the model takes 2,048 tokens at most" in notes
    assert "the chat template leaves out name (rows: 1)" in notes
    assert any("asks for a reply otherwise" in note and "(rows: 2)" in note for note in notes)


def test_supervision_is_a_setting(run, chat):
    """Only the last turn is trained where that is asked."""
    every = run(Rows(train=[chat(1, 2)]))["tokens"]["train"]["supervised"]
    last = run(Rows(train=[chat(1, 2)]), "b", supervision=Supervision(last_turn_only=True))["tokens"]["train"]

    assert 2 * last["supervised"] == every


def test_a_row_of_calls_alone_is_masked_where_calls_are_not_trained(run, conversation):
    """Such a row is kept and counted, under a reason of its own; the lines of a row with an answer train that."""
    call = {"type": "function", "function": {"name": "price", "arguments": {"dish": "kaya"}}}
    asked = (("user", "Price?"), ("assistant", "", {"tool_calls": [call]}))
    rows = [
        conversation(*asked),
        conversation(*asked, ("tool", "RM 2"), ("assistant", "RM 2.")),
        conversation(("user", "a"), ("assistant", "b", {"weight": 0})),
    ]

    every = run(Rows(train=rows), family="qwen2.5")["ledger"]
    answers = run(Rows(train=rows), "b", family="qwen2.5", supervision=Supervision(tool_calls=False))["ledger"]

    assert [every["rows"][name] for name in ("trained", "masked")] == [2, 1]
    assert [answers["rows"][name] for name in ("trained", "masked")] == [1, 2]
    assert {reason: n["rows"] for reason, n in answers["reasons"]["masked"].items()} == {"not_chosen": 1, "weight_0": 1}
    settings = json.loads((run.out / "preprocess_args.json").read_text())
    assert settings["supervision"] == {"last_turn_only": False, "tool_calls": False}


@pytest.mark.parametrize(("family", "is_noted"), [("qwen3", True), ("gpt-oss", True), ("llama-2", False)])
def test_words_that_the_template_puts_before_replies_are_noted(run, chat, family, is_noted):
    """Qwen3's prompt ends before an empty block of reasoning, gpt-oss's before a channel; a space is not worth it."""
    run(Rows(train=[chat(1)]), family=family)

    assert any("asks for a reply otherwise" in event.get("text", "") for event in run.events) is is_noted
