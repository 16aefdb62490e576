"""Which conversations make a step, and how it is cut."""

from array import array

import pyarrow
import pytest

from penala.errors import TrainingError
from penala.tokens.prepared import RowsWriter
from penala.training.batches import Document, epoch_steps, micro_batches, read_documents, rows_of


def test_supervised_positions_are_those_with_a_label():
    """The first label predicts nothing; rows end where the last one is predicted."""
    document = Document(array("i", [5, 6, 7, 8, 9]), array("i", [5, -100, 7, 8, -100]))

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


@pytest.fixture
def write(tmp_path):
    """Write rows of (ids, supervised) as a prepared split."""

    def write(*rows):
        with RowsWriter(tmp_path / "train.arrow") as file:
            for ids, supervised in rows:
                file.add(ids, supervised)
        return tmp_path / "train.arrow"

    return write


def test_a_file_is_read_as_it_is(write):
    """Ids as they are, labels where tokens are supervised; in order, by number and as a slice."""
    documents = read_documents(write(([1, 2], [1, 2]), ([], []), ([5, 6, 7, 8, 9], [0, 1, 2, 4])))

    assert [(list(document.ids), list(document.labels)) for document in documents] == [
        ([1, 2], [-100, 2]), ([], []), ([5, 6, 7, 8, 9], [5, -100, 7, 8, -100])
    ]  # fmt: skip
    assert list(documents[-1].ids) == list(documents[2:][0].ids) == [5, 6, 7, 8, 9]
    assert isinstance(documents[0].ids, array)


def test_figures_of_a_file_are_those_of_its_documents(write, monkeypatch):
    """They are reckoned without making the documents, over all parts that the file was written in."""
    monkeypatch.setattr("penala.tokens.prepared.BATCH_TOKENS", 7)
    rows = [([5, 6, 7, 8], [0, 1]), ([5, 6, 7, 8], []), ([5, 6, 7, 8], [0, 2, 3, 4]), ([5, 6, 7], [1, 2]), ([], [])]
    documents = read_documents(write(*rows))

    assert documents.num_rows == rows_of(list(documents)) == [0, 0, 3, 1, 0]
    assert documents.num_supervised == sum(document.num_supervised for document in documents) == 3


def test_a_file_is_cut_as_its_documents_are(make_document, write):
    """A split that is not held in memory makes the same micro-batches."""
    made = [make_document(length, seed=length) for length in (5, 30, 12, 60, 8, 31, 7)]
    runs = [[at for t in document.supervised for at in (t, t + 1)] for document in made]
    joined = [[at for at in run if run.count(at) == 1] for run in runs]
    documents = read_documents(write(*zip([document.ids for document in made], joined, strict=True)))

    def cut(documents):
        return [[list(document.labels) for document in batch] for batch in micro_batches(documents, max_tokens=75)]

    assert cut(documents) == cut(made)
    assert len(cut(made)) > 2


@pytest.mark.parametrize("supervised", [[1], [0, 3], [1, 1], [2, 1], [-1, 1], [0, 2, 1, 2]])
def test_a_broken_row_is_named_by_file_and_row(write, supervised):
    """The second row of the file is the broken one."""
    path = write(([1], [0, 1]), ([1, 2], supervised), ([1], []))

    with pytest.raises(TrainingError, match=r"train\.arrow: row 2: the supervised tokens are no stretches of the ids"):
        read_documents(path)


def test_a_missing_file_and_another_are_named(tmp_path):
    """With the way out."""
    path = tmp_path / "train.arrow"
    with pytest.raises(TrainingError, match=r"train\.arrow: there is no such file; prepare the data again"):
        read_documents(path)
    path.write_text('{"input_ids": [1], "labels": [1]}\n', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"train\.arrow: cannot be read: .*; prepare the data again"):
        read_documents(path)
    schema = pyarrow.schema([("ids", pyarrow.int32())])
    with pyarrow.ipc.new_file(str(path), schema):
        pass
    with pytest.raises(TrainingError, match=r"train\.arrow: holds ids, not input_ids, supervised"):
        read_documents(path)
