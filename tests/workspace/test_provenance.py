import json
import shutil

import pytest

from penala.package.write import write_package
from penala.tokens.chat_tokenizer import ChatTokenizer
from penala.tokens.lock import TemplateLock
from penala.workspace.artifacts import digest_file, digest_of
from penala.workspace.manifest import read_manifest
from penala.workspace.models import register
from penala.workspace.provenance import explained
from penala.workspace.store import JobRow, LineageRow, StepRow


@pytest.fixture
def kopi(workspace, chat_model, tmp_path):
    """A package with a template lock, registered as kopi:1; returns its folder."""
    tuned = shutil.copytree(chat_model, tmp_path / "tuned")
    TemplateLock.make(ChatTokenizer.from_folder(tuned), []).save(tuned / "template_lock.json")
    write_package(tuned, tmp_path / "package", report=lambda event: None)
    digest = digest_of(tmp_path / "package")
    (tmp_path / "package").rename(workspace.artifacts / digest)
    register(workspace.store, "kopi", None, digest, job="brisk", properties={"base_model": "kopi-base:2"})
    return workspace.artifacts / digest


@pytest.fixture
def job(workspace, kopi, tmp_path):
    """The job that made it: an import, a preparation and a conversion; returns the training file."""
    train = tmp_path / "train.jsonl"
    train.write_text("{}\n")
    row = workspace.data.add("rows", train)
    data = {"path": str(workspace.data.path(row)), "digest": row.digest}
    record = {"text": json.dumps({"name": "kopi-base", "version": "2"})}
    loose = {"path": str(train), "digest": digest_file(train)}
    steps = [
        ("chat_completion_model_import", {"catalogue_model": record}, "c1", "b" * 64),
        ("chat_completion_datapreprocess", {"train_file_path": data, "test_file_path": loose}, "c1", "d" * 64),
        ("chat_completion_finetune", {"lora_r": {"text": "8"}}, "c2", "e" * 64),
    ]
    plan = [
        {"name": name, "component": name, "version": "1", "code": code, "inputs": inputs}
        for name, inputs, code, _ in steps
    ]
    about = {
        "command": "penala run recipe.yaml --set finetuning.lora_r=8",
        "recipe": {"file": str(tmp_path / "r.yaml"), "text": "x: 1"},
    }
    spec = {"plan": {"steps": plan}}
    workspace.store.insert(JobRow("brisk", "kopi", "pipeline", "Completed", spec, "p", 1.0, about=about))
    for position, (name, _, _, out) in enumerate(steps):
        figures = {"ledger": {"rows": {"in": 1}}, "loss": 0.5} if position else None
        workspace.store.insert(StepRow("brisk", name, position, "Completed", outputs={"out": out}, figures=figures))
    for child, relation, parent in (
        (kopi.name, "convert.model_path", "e" * 64),
        ("e" * 64, "finetune.base", "b" * 64),
        ("e" * 64, "finetune.data", "d" * 64),
        ("d" * 64, "prepare.train", row.digest),
    ):
        workspace.store.insert(LineageRow(child, relation, parent, "brisk"))
    return train


def test_a_manifest_proves_itself(workspace, kopi):
    """The files' digests make the artifact's; one that was changed is none."""
    manifest = read_manifest(workspace.folder, kopi.name)
    file = workspace.folder / "manifests" / f"{kopi.name}.json"

    assert manifest["files"]["MLmodel"] == digest_file(kopi / "MLmodel")
    assert any(package.startswith("penala==") for package in manifest["environment"]["packages"])
    file.write_text(file.read_text().replace(manifest["files"]["MLmodel"], "0" * 64))
    assert read_manifest(workspace.folder, kopi.name) is None


def test_a_version_that_was_not_touched_is_what_was_registered(workspace, kopi):
    """What Python leaves beside code does not count."""
    (kopi / "code" / "__pycache__").mkdir()
    (kopi / "code" / "__pycache__" / "x.pyc").write_text("x")

    found = workspace.models.verify("azureml:kopi:1")

    assert (found["model"], found["ok"], found["problems"]) == ("kopi:1", True, [])
    assert found["files"] == len(read_manifest(workspace.folder, kopi.name)["files"])


def test_every_file_that_differs_is_named(workspace, kopi):
    """Changed, missing or added."""
    with (kopi / "requirements.txt").open("a") as file:
        file.write("x")
    (kopi / "conda.yaml").unlink()
    (kopi / "new").write_text("")

    found = workspace.models.verify("kopi:1")

    assert not found["ok"]
    assert found["problems"] == ["conda.yaml is missing", "new was added", "requirements.txt has changed"]


def test_another_template_is_found_by_the_lock(workspace, kopi):
    """Beside the file, which has two names in the package, stands what its change means."""
    file = kopi / "model" / "tokenizer_config.json"
    file.write_text(file.read_text().replace("<|im_start|>assistant", "<|im_start|>system"))

    problems = workspace.models.verify("kopi:1")["problems"]

    names = ["components/tokenizer/tokenizer_config.json", "model/tokenizer_config.json"]
    assert problems[:2] == [f"{name} has changed" for name in names]
    assert "golden rendering 2 differs at token 19" in problems[2]


def test_a_version_without_its_manifest_is_still_checked_as_a_whole(workspace, kopi):
    """One that an older penala registered."""
    shutil.rmtree(workspace.folder / "manifests")
    assert workspace.models.verify("kopi:1")["ok"]

    (kopi / "new").write_text("")
    assert workspace.models.verify("kopi:1")["problems"] == [
        f"its files are not those that were registered as {kopi.name}"
    ]
    shutil.rmtree(kopi)
    assert workspace.models.verify("kopi:1")["problems"] == [f"{kopi} is gone"]


def test_base_models_are_verified_too(workspace, chat_model, tmp_path):
    """The user's files against what was added; what was not fetched yet has no problem."""
    model = shutil.copytree(chat_model, tmp_path / "model")
    workspace.models.add("kopi-base", str(model))
    assert workspace.models.verify("kopi-base:1")["ok"]
    assert workspace.models.verify("Phi-3-mini-4k-instruct:15")["ok"]

    with (model / "config.json").open("a") as file:
        file.write(" ")
    assert "has changed since it was added" in workspace.models.verify("kopi-base:1")["problems"][0]


def test_explain_says_what_a_version_was_made_of(workspace, kopi, job):
    """Down to the files, whether they have changed since, and the command that makes it again."""
    job.write_text("changed")
    found = workspace.models.explain("kopi:1")

    assert found["base_model"] == "kopi-base:2"
    assert [(one["input"], one["asset"], one["now"]) for one in found["data"]] == [
        ("train_file_path", "rows:1", "unchanged"),
        ("test_file_path", None, "changed since"),
    ]
    assert found["rows"] == {"rows": {"in": 1}}
    assert found["settings"]["chat_completion_finetune"] == {"lora_r": "8"}
    assert found["command"] == "penala run recipe.yaml --set finetuning.lora_r=8"
    assert (found["recipe"]["text"], found["recipe"]["now"]) == ("x: 1", "gone")
    assert found["environment"]["packages"]
    text = dict(explained(found))
    assert text["train_file_path"].startswith("rows:1  ")
    assert text["settings"] == "lora_r 8"
    assert text["again"] == found["command"]


@pytest.mark.parametrize(
    ("content", "now"), [(b"x: 1", "unchanged"), (b"x: 2", "changed since"), (b"\xe9", "changed since")]
)
def test_explain_compares_the_recipe_with_its_file(workspace, kopi, job, tmp_path, content, now):
    """Whatever that holds today, also no UTF-8."""
    (tmp_path / "r.yaml").write_bytes(content)

    assert workspace.models.explain("kopi")["recipe"]["now"] == now


def test_what_a_job_did_not_say_can_be_run_again_by_its_name(workspace, kopi):
    """A version whose job is gone, or that was registered by hand, has no command."""
    assert workspace.models.explain("kopi:1")["command"] is None
    workspace.store.insert(JobRow("brisk", "kopi", "command", "Completed", {}, "p", 1.0))
    command = f"penala --workspace {workspace.folder} jobs rerun brisk --force-rerun"
    assert workspace.models.explain("kopi:1")["command"] == command


def test_lineage_names_the_base_model_the_assets_the_code_and_the_environment(workspace, kopi, job):
    """From the version down to the user's files."""
    environment = read_manifest(workspace.folder, kopi.name)["environment"]

    lines = workspace.models.lineage("kopi:1").splitlines()

    assert lines[1:5] == [
        "  job brisk",
        f"    environment  {environment['id'][:12]}  Python {environment['python']}",
        "    code  c1  chat_completion_model_import, chat_completion_datapreprocess",
        "    code  c2  chat_completion_finetune",
    ]
    assert "    finetune.base  bbbbbbbbbbbb  base model kopi-base:2" in lines
    assert lines[-1].endswith("  rows:1")
