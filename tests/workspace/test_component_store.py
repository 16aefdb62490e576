import shutil

import pytest
import yaml

from penala.errors import NotFound, UsageError
from penala.workspace.components import SHIPPED, read_component, read_pipeline

COUNT = {
    "type": "command",
    "name": "count",
    "inputs": {"rows": {"type": "uri_file"}},
    "outputs": {"out": {"type": "uri_folder"}},
    "code": "./src",
    "command": "python count.py ${{inputs.rows}} ${{outputs.out}}",
    "environment": {"image": "python:3", "conda_file": "conda.yml"},
}


@pytest.fixture
def count(tmp_path):
    """A command component of the user's with code, and a pipeline of it."""
    folder = tmp_path / "mine"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "count.py").write_text("print(1)\n")
    (folder / "conda.yml").write_text("name: x\n")
    (folder / "count.yml").write_text(yaml.safe_dump(COUNT))
    return folder / "count.yml"


@pytest.fixture
def pipeline(count):
    """A pipeline whose one job is that component."""
    job = {"type": "command", "component": "./count.yml", "inputs": {"rows": "${{parent.inputs.rows}}"}}
    document = {"type": "pipeline", "name": "all", "version": "3", "inputs": COUNT["inputs"], "jobs": {"one": job}}
    file = count.with_name("all.yml")
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_component_outlives_the_files_that_it_came_from(workspace, count):
    """Its code and its conda file lie beside the copy, which is read like any component."""
    row = workspace.components.add(count)
    shutil.rmtree(count.parent)

    file = workspace.components.get("count")
    component = read_component(file)
    assert (row.version, row.kind, component.version) == ("1", "command", "1")
    assert (file.parent / component.code / "count.py").read_text() == "print(1)\n"
    assert (file.parent / yaml.safe_load(file.read_text())["environment"]["conda_file"]).is_file()


@pytest.mark.parametrize("said", [{"type": None}, {"type": "Command"}, {}])
def test_the_type_may_be_missing_or_in_capitals(workspace, count, said):
    """As in a job document; a key without a value says nothing."""
    count.write_text(yaml.safe_dump({key: value for key, value in COUNT.items() if key != "type"} | said))

    assert workspace.components.add(count).kind == "command"


def test_a_pipeline_takes_its_commands_along(workspace, pipeline):
    """With their code; the copies name the copies."""
    row = workspace.components.add(pipeline)
    shutil.rmtree(pipeline.parent)

    component = read_pipeline(workspace.components.get("azureml:all:3")).nodes["one"].component
    assert (row.version, row.kind, component.name) == ("3", "pipeline", "count")
    assert (component.place.folder / component.code / "count.py").is_file()


def test_the_same_content_keeps_its_version(workspace, count):
    """Changed code is other content: the next version, or a refusal of the one that was asked for."""
    first = workspace.components.add(count)
    assert workspace.components.add(count) == first

    (count.parent / "src" / "count.py").write_text("print(2)\n")
    assert workspace.components.add(count).version == "2"
    with pytest.raises(UsageError, match="count:1: is there already, with other content"):
        workspace.components.add(count, "1")
    assert read_component(workspace.components.get("count", "1")).version == "1"


def test_what_a_snapshot_leaves_out_is_left_out(workspace, count):
    """What .amlignore names, by pattern and by folder, and what Python leaves; a change of it is no other content."""
    code = count.parent / "src"
    (code / ".amlignore").write_text("*.bin\nlarge/\n")
    for name in ("large/rows", "deep/weights.bin", "deep/__pycache__/x.pyc", "deep/kept.py"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("1")

    first = workspace.components.add(count)
    (code / "large" / "rows").write_text("2")

    home = workspace.components.get("count").parent / "code-1" / "src"
    assert {path.name for path in home.rglob("*") if path.is_file()} == {".amlignore", "count.py", "kept.py"}
    assert workspace.components.add(count) == first


def test_code_around_the_workspace_is_kept_without_it(workspace, tmp_path):
    """`code: .` in a project whose .penala lies beside the component."""
    (tmp_path / "count.yml").write_text(yaml.safe_dump(COUNT | {"code": ".", "environment": "azureml:x:1"}))
    (tmp_path / "count.py").write_text("print(1)\n")

    workspace.components.add(tmp_path / "count.yml")

    home = workspace.components.get("count").parent / "code-1" / tmp_path.name
    assert {path.name for path in home.iterdir()} == {"count.yml", "count.py"}


def test_a_flag_wins_over_the_files_version(workspace, pipeline):
    """As --version says."""
    assert workspace.components.add(pipeline, "4").version == "4"
    assert workspace.components.get("all") == workspace.components.get("all", "4")


def test_what_cannot_run_is_not_kept(workspace, count):
    """A command that uses what it does not declare, code that is not there, a file without a name."""
    for changes, message in (
        ({"command": "echo ${{inputs.row}}"}, "inputs.row"),
        ({"code": "./gone"}, "gone: is not there"),
        ({"name": None}, "name"),
    ):
        count.write_text(yaml.safe_dump(COUNT | changes))
        with pytest.raises(UsageError, match=message):
            workspace.components.add(count)

    assert not list((workspace.folder / "components").glob("*"))
    assert all(one["shipped"] for one in workspace.components.list())


@pytest.mark.parametrize(
    "name",
    [
        "chat_completion_pipeline",
        "azureml:chat_completion_pipeline@latest",
        "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest",
        "azureml://registries/azureml/components/chat_completion_pipeline/labels/default",
        "azureml:chat_completion_pipeline@default",
        "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82",
    ],
)
def test_a_shipped_component_stands_in_for_the_registrys(workspace, name):
    """Whatever version a document was written for."""
    assert workspace.components.get(name) == SHIPPED / "chat_completion_pipeline.yaml"


def test_a_users_component_goes_before_a_shipped_one(workspace, count):
    """A name means what the user made it mean; the shipped one keeps its version."""
    count.write_text(yaml.safe_dump(COUNT | {"name": "ft_nlp_common_validation"}))
    workspace.components.add(count)

    assert workspace.components.get("ft_nlp_common_validation").is_relative_to(workspace.folder)
    assert workspace.components.get("ft_nlp_common_validation:0.1.0").parent == SHIPPED


def test_what_is_not_there_is_answered_with_what_is(workspace):
    """The near name, or the known versions."""
    with pytest.raises(NotFound, match="did you mean 'chat_completion_finetune'"):
        workspace.components.get("chat_completion_finetun")
    with pytest.raises(NotFound, match=r"chat_completion_finetune has no version '9'; its versions: 0\.1\.0"):
        workspace.components.get("chat_completion_finetune", "9")


def test_show_returns_the_whole_document(workspace, count):
    """Shipped or not."""
    workspace.components.add(count)

    assert workspace.components.show("count")["component"]["command"] == COUNT["command"]
    assert workspace.components.show("chat_completion_pipeline")["component"]["type"] == "pipeline"
