"""Which conversations make a step, and how it is cut."""

import json
from array import array

import pytest

from penala.errors import TrainingError
from penala.training.batches import Document, epoch_steps, micro_batches, read_documents


def test_supervised_positions_are_those_with_a_label():
    """The first label predicts nothing; rows end where the last one is predicted."""
    document = Document.from_row({"input_ids": [5, 6, 7, 8, 9], "labels": [5, -100, 7, 8, -100]})

    assert document.supervised == (2, 3)
    assert document.num_rows == 3
    assert len(document) == 5


@pytest.mark.parametrize(("num_documents", "batch"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_an_epoch_takes_every_document_once(num_documents, batch):
    """In steps of exactly the effective batch; the last one takes what is left."""
    steps = epoch_steps(num_documents, batch, seed=1, epoch=0)

    assert sorted(number for step in steps for number in step) == list(range(num_documents))
    assert [len(step) for step in steps[:-1]] == [batch] * (len(steps) - 1)
    assert 1 <= len(steps[-1]) <= batch


def test_seed_and_epoch_decide_the_order():
    """The same pair gives the same steps, another one others."""
    first = epoch_steps(50, 8, seed=1, epoch=0)

    assert epoch_steps(50, 8, seed=1, epoch=0) == first
    assert epoch_steps(50, 8, seed=1, epoch=1) != first
    assert epoch_steps(50, 8, seed=2, epoch=0) != first


def test_the_order_has_not_moved():
    """A resumed run must find the order of the version that began it."""
    assert epoch_steps(6, 3, seed=42, epoch=0) == [[2, 4, 3], [5, 1, 0]]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 40, 75, 10_000])
def test_micro_batches_hold_every_document_and_keep_the_limit(make_document, max_tokens, padded):
    """Only a document that is longer than the limit may break it, and it goes alone."""
    documents = [make_document(length, seed=length) for length in (5, 30, 12, 60, 8, 31, 7)]
    cut = list(micro_batches(documents, max_tokens=max_tokens, padded=padded))

    assert sorted(map(id, (document for batch in cut for document in batch))) == sorted(map(id, documents))
    for batch in cut:
        rows = [document.num_rows for document in batch]
        size = max(rows) * len(rows) if padded else sum(rows)
        assert size <= max_tokens or len(batch) == 1


def test_micro_batches_may_be_few_documents(make_document):
    """per_device_eval_batch_size bounds how many are laid out at once."""
    documents = [make_document(10, seed=seed) for seed in range(7)]

    cut = micro_batches(documents, max_tokens=10_000, max_documents=3)
    assert [len(batch) for batch in cut] == [3, 3, 1]


def test_a_file_is_read_as_it_is(tmp_path):
    """One document a line, in order."""
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"input_ids": [1, 2], "labels": [-100, 2]}) + "\n", encoding="utf-8")
    (document,) = read_documents(path)

    assert (document.ids, document.labels) == (array("i", [1, 2]), array("i", [-100, 2]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input_ids": [1, 2], "labels": [-100]}', "2 input_ids but 1 labels"),
        ('{"input_ids": [1, 2], "labels": [-100, 3]}', r"labels\[1\] is 3, neither -100 nor input_ids\[1\] = 2"),
        ('{"input_ids": [1, "a"], "labels": [1, 2]}', r"Expected `int`, got `str` - at `\$.input_ids\[1\]`"),
        ('{"input_ids": [1, 2]}', "missing required field `labels`"),
        ('{"input_ids": [1, 2', "truncated"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, line, message):
    """The second line of the file is the broken one."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"input_ids": [1], "labels": [1]}\n' + line + "\n", encoding="utf-8")

    with pytest.raises(TrainingError, match=rf"train\.jsonl:2: .*{message}"):
        read_documents(path)


def test_a_missing_file_is_named(tmp_path):
    """With the way out."""
    with pytest.raises(TrainingError, match=r"train\.jsonl: there is no such file; prepare the data again"):
        read_documents(tmp_path / "train.jsonl")
