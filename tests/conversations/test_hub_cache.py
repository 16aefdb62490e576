"""A recipe may name a split of the hub: it is looked up when the recipe is checked, and fetched once when it runs."""

import json

import pytest

from penala.conversations import hub
from penala.conversations.hub import Unreachable
from penala.conversations.hub_cache import fetch
from penala.errors import RecipeError, UsageError
from penala.recipe import HubAddress, Recipe, hub_address
from penala.workspace.run import preflight

REPO = "kopi/chats"
CONFIGS = {"a b": "train", "a-b": "test"}  # and the file of each


@pytest.fixture
def endpoint(monkeypatch):
    """Set what HF_ENDPOINT set when huggingface_hub was imported."""
    from huggingface_hub import constants

    def set_to(url: str) -> None:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", url)

    return set_to


@pytest.fixture
def served(tmp_path, hub_class, rows, endpoint):
    """A hub, where huggingface_hub looks for one, with 20 good rows as train and 10 as test."""
    folder = tmp_path / "repo"
    folder.mkdir()
    for split, count in (("train", 20), ("test", 10)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    with hub_class.Hub(REPO, folder, "datasets") as running:
        endpoint(running.url)
        yield running


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://datasets/a/b/train_sft", HubAddress("a/b", None, None, "train_sft")),
        ("hf://datasets/a/b@v1.0/en/train", HubAddress("a/b", "v1.0", "en", "train")),
        ("hf://datasets/a/b@refs/convert/parquet/train", HubAddress("a/b", "refs/convert/parquet", None, "train")),
        ("data/train.jsonl", None),
        (None, None),
    ],
)
def test_an_address_names_repository_revision_configuration_and_split(text, address):
    """What begins otherwise is no address; an address is written as it was read."""
    assert hub_address(text) == address
    assert address is None or str(address) == text


def recipe(folder, **conversations: str) -> Recipe:
    """Write and load a recipe with these conversations and the base model `model`."""
    file = folder / "recipe.yaml"
    file.write_text(json.dumps({"base_model": "./model", "conversations": conversations}))
    return Recipe.load(file)


@pytest.mark.parametrize("address", ["hf://datasets/kopi/train", "hf://kopi/chats/train", "hf://datasets/a/b/x.y/../z"])
def test_an_address_that_is_not_whole_is_refused(tmp_path, address):
    """The error shows how one is written."""
    with pytest.raises(RecipeError, match="names no split; write hf://datasets/OWNER/NAME/SPLIT"):
        recipe(tmp_path, train=address)


def test_checking_a_recipe_fetches_no_row(served, chat_model, tmp_path):
    """The notes say what will be fetched, with its size and commit."""
    (tmp_path / "model").symlink_to(chat_model)

    checked = preflight(recipe(tmp_path, train=f"hf://datasets/{REPO}/train", test=f"hf://datasets/{REPO}/test"))

    assert served.moved == 0
    assert [note.partition(" has ")[0] for note in checked.notes] == [
        f"train: hf://datasets/{REPO}/train",
        f"test: hf://datasets/{REPO}/test",
    ]
    assert "MB at c0ffee000000; they are fetched once and checked when the recipe runs" in checked.notes[0]


def test_checking_a_recipe_refuses_a_split_that_is_not_there(served, chat_model, tmp_path):
    """The near one is proposed."""
    (tmp_path / "model").symlink_to(chat_model)

    with pytest.raises(UsageError, match="has no split 'trian'; did you mean 'train'"):
        preflight(recipe(tmp_path, train=f"hf://datasets/{REPO}/trian"))


def test_a_split_is_fetched_once_and_stays_when_the_hub_goes(served, endpoint, tmp_path):
    """The second time nothing moves; without the hub the copy is used, and that is said."""
    address, notes = HubAddress(REPO, None, None, "train"), []
    first = fetch(address, tmp_path / "cache", notes.append)
    moved = served.moved

    assert first.read_bytes() == (served.folder / "train.jsonl").read_bytes()
    assert fetch(address, tmp_path / "cache", notes.append) == first
    assert served.moved == moved
    endpoint("http://127.0.0.1:1")
    assert fetch(address, tmp_path / "cache", notes.append) == first
    assert f"using the copy of hf://datasets/{REPO}/train at c0ffee000000" in notes[-1]["text"]
    with pytest.raises(Unreachable):
        fetch(address._replace(revision="v2"), tmp_path / "cache", notes.append)


def test_a_copy_that_was_changed_is_fetched_again(served, tmp_path):
    """The cache is ours: nobody is asked for --force."""
    address = HubAddress(REPO, None, None, "train")
    first = fetch(address, tmp_path / "cache", lambda event: None)
    first.write_text("{}\n")

    assert fetch(address, tmp_path / "cache", lambda event: None) == first
    assert first.read_bytes() == (served.folder / "train.jsonl").read_bytes()


def test_names_that_differ_in_a_mark_have_copies_of_their_own(served, tmp_path):
    """Configurations `a b` and `a-b` do not share a folder."""
    configs = "".join(f"- {{config_name: {name}, data_files: {file}.jsonl}}\n" for name, file in CONFIGS.items())
    (served.folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")

    copies = [fetch(HubAddress(REPO, None, name, "train"), tmp_path, lambda event: None) for name in CONFIGS]

    assert [copy.read_bytes() for copy in copies] == [
        (served.folder / f"{file}.jsonl").read_bytes() for file in CONFIGS.values()
    ]


def test_a_hub_that_is_lost_on_the_way_leaves_the_older_copy(served, tmp_path, monkeypatch):
    """The copy of the commit before is used, and that is said."""
    monkeypatch.setattr(hub, "WAITS_S", ())
    address, notes = HubAddress(REPO, None, None, "train"), []
    older = fetch(address, tmp_path, notes.append)
    served.commit, served.dies_after = "decade" + "0" * 34, served.moved + 10

    assert fetch(address, tmp_path, notes.append) == older
    assert "was lost 1 times" in notes[-1]["text"]
    assert f"using the copy of {address} at c0ffee000000" in notes[-1]["text"]
