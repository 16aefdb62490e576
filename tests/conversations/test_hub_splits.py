"""Which files make which split."""

import pytest

from penala.conversations.hub_splits import Card, RemoteFile, lay_out, read_card
from penala.errors import DataError


def layout(*paths: str, card: str = "") -> dict[str, dict[str, list[str]]]:
    """Lay out files of these names under a card with this YAML head; return {configuration: {split: paths}}."""
    files = [RemoteFile(path, 1) for path in paths]
    found = lay_out(files, read_card(f"---\n{card}\n---\n# A set".encode()) if card else Card())
    return {
        config: {name: [file.path for file in split.files] for name, split in splits.items()}
        for config, splits in found.configs.items()
    }


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (
            ["data/train_sft-00000-of-00002-a1b2.parquet", "data/train_sft-00001-of-00002-c3.parquet"],
            {"train_sft": [0, 1]},
        ),
        (["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"], {"test": [0], "train": [1]}),
        (["test_gen.jsonl", "train_sft.jsonl"], {"test_gen": [0], "train_sft": [1]}),
        (["data/dev.json", "data/train.json"], {"dev": [0], "train": [1]}),
        (["my-train.csv", "my_test_file.csv"], {"train": [0], "test": [1]}),
        (["train1.csv", "train2.csv"], {"train": [0, 1]}),
        (["data/train/a.jsonl", "data/train/b.jsonl", "data/validation/c.jsonl"], {"train": [0, 1], "validation": [2]}),
        (["default/train/0000.parquet", "default/train/0001.parquet"], {"train": [0, 1]}),
        (["alpaca_data.json"], {"train": [0]}),
        (["test-v2.jsonl.gz"], {"test": [0]}),
        (["data.test.jsonl", "data.train.jsonl"], {"test": [0], "train": [1]}),
        (["squad-v1.1-test.json", "squad-v1.1-train.json"], {"test": [0], "train": [1]}),
        (["train.messages.jsonl"], {"train": [0]}),
        (["extra-00000-of-00001.parquet", "values.parquet"], {"extra": [0], "train": [1]}),
    ],
)
def test_names_tell_the_splits(paths, splits):
    """Shards, file names and folders are read as people name them; a set without a hint is all train."""
    assert layout(*paths) == {"default": {name: [paths[i] for i in numbers] for name, numbers in splits.items()}}


def test_what_is_no_data_is_passed_over():
    """The card, pictures, hidden folders and files about the data make no split."""
    paths = ["README.md", ".cache/train.jsonl", "a.png", "dataset_info.json", "data/train.jsonl"]

    assert layout(*paths) == {"default": {"train": ["data/train.jsonl"]}}


def test_the_commonest_kind_is_taken_and_the_rest_told():
    """The same rows as parquet and as CSV are not read twice."""
    found = lay_out([RemoteFile("train.csv", 1), RemoteFile("train.parquet", 1)], Card())

    assert [file.path for file in found.configs["default"]["train"].files] == ["train.parquet"]
    assert found.notes == ["1 data files that are not .parquet are left out"]


def test_folders_beside_each_other_are_configurations():
    """A split that lies in two folders is two configurations, and neither is the default."""
    assert layout("en/train.jsonl", "fr/train.jsonl") == {
        "en": {"train": ["en/train.jsonl"]},
        "fr": {"train": ["fr/train.jsonl"]},
    }
    assert lay_out([RemoteFile("en/train.jsonl", 1), RemoteFile("fr/train.jsonl", 1)], Card()).default is None


def test_the_card_decides():
    """Patterns, lists, bare strings and data_dir of `configs` count, whatever the names would say."""
    card = """
configs:
- config_name: mixed
  default: true
  data_files:
  - {split: learn, path: "data/*.csv"}
  - {split: exam, path: [b/x.csv, "deep/**"]}
- {config_name: bare, data_files: b/x.csv}
- {config_name: folder, data_dir: deep}
"""
    paths = ["b/x.csv", "data/test.csv", "data/train.csv", "deep/er/train.csv"]

    assert layout(*paths, card=card) == {
        "mixed": {"learn": ["data/test.csv", "data/train.csv"], "exam": ["b/x.csv", "deep/er/train.csv"]},
        "bare": {"train": ["b/x.csv"]},
        "folder": {"train": ["deep/er/train.csv"]},
    }
    assert lay_out([RemoteFile(path, 1) for path in paths], read_card(f"---\n{card}---\n".encode())).default == "mixed"


def test_the_card_claims_rows():
    """dataset_info tells how many rows a split has."""
    card = read_card(b"---\ndataset_info:\n  splits:\n  - {name: train, num_bytes: 9.5, num_examples: 20}\n---\n")

    assert lay_out([RemoteFile("train.jsonl", 1)], card).configs["default"]["train"].rows == 20


def test_a_claim_about_another_configuration_is_not_taken():
    """Rows are cut by the claim: the wrong one would give the wrong share."""
    infos = "".join(
        f"- {{config_name: {name}, splits: [{{name: train, num_examples: {rows}}}]}}\n"
        for name, rows in (("old", 100), ("chat", 1000))
    )
    card = read_card(
        f"---\nconfigs:\n- {{config_name: chat, data_files: train.jsonl}}\ndataset_info:\n{infos}---\n".encode()
    )

    assert lay_out([RemoteFile("train.jsonl", 1)], card).configs["chat"]["train"].rows == 1000


@pytest.mark.parametrize("head", ["configs:", "dataset_info:", "dataset_info: 3", "dataset_info: {splits: many}"])
def test_a_card_that_says_nothing_of_use_is_no_hindrance(head):
    """What a card claims beside the files may be missing or odd."""
    assert layout("train.jsonl", card=head) == {"default": {"train": ["train.jsonl"]}}


def test_a_name_that_yaml_reads_as_something_else_is_a_name():
    """`no` is a language, and false in YAML; 1e3 is a number there."""
    for name in ("no", "1e3", "2024-01-01"):
        card = f"configs:\n- {{config_name: {name}, data_files: a.csv}}"
        assert layout("a.csv", card=card) == {name: {"train": ["a.csv"]}}


def test_what_a_card_says_beside_the_files_refuses_nothing():
    """A date that no calendar has, and nulls, are no hindrance."""
    card = """
date: 2023-02-30
configs:
- {config_name: a, data_files: a.csv, data_dir: null, default: yes}
- {config_name: b, data_files: b.csv}
"""
    found = lay_out([RemoteFile("a.csv", 1), RemoteFile("b.csv", 1)], read_card(f"---\n{card}---\n".encode()))

    assert list(found.configs) == ["a", "b"]
    assert found.default == "a"


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("configs:\n- data_files: [{split: train}]", "missing required field `path`"),
        ("configs: [", "its head cannot be understood"),
        (f"configs: {'[' * 999}", "its head cannot be understood: maximum recursion depth"),
    ],
)
def test_a_broken_card_is_refused(card, message):
    """A hole, no YAML, too much of YAML: each is named."""
    with pytest.raises(DataError) as caught:
        layout("x.csv", card=card)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data_files", "message"),
    [
        ("gone.csv", "no data file matches 'gone.csv' of split train"),
        ("[{split: ../up, path: x.csv}]", "'../up' is no name of a split"),
        ("'a**.csv'", "is no pattern"),
    ],
)
def test_a_configuration_without_its_files_is_refused_alone(data_files, message):
    """A pattern that matches nothing, a split that would leave the folder: the reason is kept, the others stay."""
    card = (
        f"---\nconfigs:\n- {{config_name: a, data_files: {data_files}}}\n- {{config_name: b, data_files: x.csv}}\n---"
    )

    found = lay_out([RemoteFile("x.csv", 1)], read_card(card.encode()))

    assert message in found.refused["a"]
    assert (list(found.configs), found.default) == (["b"], None)


@pytest.mark.parametrize("readme", [b"", b"# no head", b"---\n- a list\n---", b"\xef\xbb\xbf---\nlicense: mit\n---\n"])
def test_a_card_without_a_word_about_files_says_nothing(readme):
    """Names decide then."""
    assert read_card(readme) == Card()
