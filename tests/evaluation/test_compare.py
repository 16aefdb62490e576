import json
import math

import pytest

from penala.errors import DataError, RecipeError
from penala.evaluation.compare import compare
from penala.tokens.prepared import RowsWriter, split_file


@pytest.fixture
def run(chat_model, tuned, tmp_path):
    """Compare the two models on a prepared folder; return the figures, the folder and the reported events."""

    def go(prepared, **settings):
        events = []
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        return compare(chat_model, tuned, prepared, out, settings, events.append), out, events

    return go


def replies(out):
    return [json.loads(line) for line in (out / "replies.jsonl").read_text().splitlines()]


def mean_nats(model, prepared):
    """The mean loss of the supervised tokens, from transformers' logits, one row at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    from penala.training.batches import read_documents

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    nats, tokens = 0.0, 0
    for document in read_documents(prepared / "test.arrow"):
        with torch.no_grad():
            logits = network(torch.tensor([document.ids])).logits[0, :-1]
        labels = torch.tensor(document.labels[1:], dtype=torch.long)
        nats += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
        tokens += int((labels != -100).sum())
    return nats / tokens, tokens


def test_loss_is_the_mean_over_supervised_tokens(run, prepare, chat_model, tuned):
    """Before and after are those of the base and of the tuned model, as transformers computes them."""
    import torch

    from penala.training.model import arithmetic

    prepared = prepare()

    figures, _, _ = run(prepared)

    before, tokens = mean_nats(chat_model, prepared)
    after, _ = mean_nats(tuned, prepared)
    assert (figures["split"], figures["rows"], figures["tokens"]) == ("test", 3, tokens)
    # an ulp of bfloat16, where this machine computes in it; another set of tokens would be further off
    rounding = max(1e-4, torch.finfo(arithmetic("16")).eps)
    assert figures["before"]["loss"] == pytest.approx(before, rel=rounding)
    assert figures["after"]["loss"] == pytest.approx(after, rel=rounding)
    assert figures["after"]["perplexity"] == pytest.approx(math.exp(figures["after"]["loss"]))
    assert "accuracy" not in figures["after"]


def test_the_validation_rows_stand_in_for_a_missing_test_split(run, prepare):
    """An empty test file is as good as none."""
    prepared = prepare("validation")
    with RowsWriter(split_file(prepared, "test")):
        (prepared / "raw_data" / "test.jsonl").write_text("")

    assert run(prepared)[0]["split"] == "validation"


def test_without_rows_nothing_is_measured(run, tmp_path):
    """The figures are there and None, and so is the report."""
    figures, out, _ = run(tmp_path)

    assert figures["split"] is None
    assert figures["before"] == figures["after"] == {"loss": None, "perplexity": None}
    assert "no test or validation row" in (out / "report.md").read_text()


def test_replies_of_both_models_stand_side_by_side(run, prepare):
    """Each row carries the question, the data's own answer and two replies; they are reported as they come."""
    _, out, events = run(prepare(), replies={"max_new_tokens": 4})

    first = replies(out)[0]
    assert (first["question"], first["reference"], first["right"]) == ("kopi?", "teh", None)
    assert first["before"] != first["after"]
    assert [e["done"] for e in events if e.get("unit") == "replies"] == [1, 2, 3, 1, 2, 3]
    assert "## Replies" in (out / "report.md").read_text()


def test_accuracy_counts_right_replies_over_all_and_by_group(run, prepare):
    """A model whose own reply is expected is right, and wrong where the same reply is unexpected."""
    short = {"replies": {"max_new_tokens": 4}}
    said = [row["before"] for row in replies(run(prepare(), **short)[1])]
    columns = (
        {"e": [said[0]], "u": [], "g": "English"},
        {"e": said[1], "u": [said[1]], "g": "Malay"},
        {"e": said[2], "u": [], "g": "Malay"},
    )

    figures, out, _ = run(
        prepare(columns=columns), contains={"expected": "e", "unexpected": "u"}, groups=["g"], **short
    )

    assert figures["before"]["accuracy"] == pytest.approx(2 / 3)
    assert [(group["name"], group["rows"], group["before"]) for group in figures["groups"]] == [
        ("English", 1, 1.0),
        ("Malay", 2, 0.5),
    ]
    assert [row["right"]["before"] for row in replies(out)] == [True, False, True]
    assert json.loads((out / "evaluation.json").read_text())["judged"] == 3


def test_unrelated_questions_are_answered_before_and_after(run, tmp_path):
    """They need no reference and no split."""
    path = tmp_path / "unrelated.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "capital?"}]}\n')

    _, out, _ = run(tmp_path, forgetting=path, replies={"max_new_tokens": 3})

    (row,) = json.loads((out / "evaluation.json").read_text())["forgetting"]
    assert row["question"] == "capital?"
    assert row["before"] != row["after"]


def test_the_same_evaluation_gives_the_same_bytes(run, prepare):
    """Nothing that it writes holds a time or a path."""
    prepared = prepare()
    _, first, _ = run(prepared)
    _, second, _ = run(prepared)

    for name in ("evaluation.json", "replies.jsonl", "report.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_is_wrong_is_said_before_a_model_is_loaded(prepare, tmp_path):
    """Neither of the two model folders exists."""
    prepared, nowhere = prepare(), tmp_path / "nowhere"

    with pytest.raises(DataError, match="no row that is evaluated has a column 'expected'"):
        compare(nowhere, nowhere, prepared, tmp_path / "out", {"contains": {"expected": "expected"}}, print)
    with pytest.raises(RecipeError, match="unknown key"):
        compare(nowhere, nowhere, prepared, tmp_path / "out", {"gates": []}, print)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"questions\.jsonl: cannot be read: No such file"),
        ("", "holds no question"),
        ("{", r"questions\.jsonl:1: .*write one"),
        ('{"messages": []}', "or an empty one"),
    ],
)
def test_unrelated_questions_that_cannot_be_read_are_refused_first(chat_model, prepare, tmp_path, text, message):
    """A missing, an empty and a broken file; the fix shows the form."""
    path = tmp_path / "questions.jsonl"
    if text is not None:
        path.write_text(text)

    with pytest.raises(DataError, match=f"evaluation.forgetting: .*{message}"):
        compare(tmp_path / "nowhere", chat_model, prepare(), tmp_path / "out", {"forgetting": path}, print)
