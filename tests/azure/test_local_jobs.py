"""The SDK's jobs run here: pipelines, commands, files for `az ml job create`; streamed, read, stopped."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from azure.ai.ml import Input, Output, command, load_component, load_job
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import CommandJob, Job, Model, PipelineJob
from azure.ai.ml.exceptions import JobException, PipelineChildJobError, ValidationException
from azure.core.exceptions import ResourceNotFoundError

from penala.azure import LocalMLClient
from penala.azure.documents import as_document
from penala.workspace.client import Workspace

COPY = {
    "type": "command",
    "name": "copy",
    "version": "1",
    "display_name": "Copy a text",
    "inputs": {"text": {"type": "uri_file"}, "times": {"type": "integer", "default": 1, "min": 1}},
    "outputs": {"out": {"type": "uri_folder"}},
    "environment": "azureml:e:1",
    "command": "for i in $(seq ${{inputs.times}}); do cat ${{inputs.text}} >> ${{outputs.out}}/text; done",
}


@pytest.fixture
def client(tmp_path, monkeypatch) -> LocalMLClient:
    """A client whose notebook lies in the test's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("kopi\n")
    return LocalMLClient(path=tmp_path / "ws")


@pytest.fixture
def copies(tmp_path) -> Callable[..., PipelineJob]:
    """Build a pipeline that copies ./words.txt."""
    (tmp_path / "copy.yml").write_text(yaml.safe_dump(COPY))

    def build(times: Any = 2, path: str = "./words.txt", **settings: Any) -> PipelineJob:
        copy = load_component(tmp_path / "copy.yml")

        @pipeline(name="copies", **settings)
        def copies() -> dict[str, Any]:
            step = copy(text=Input(type="uri_file", path=path), times=times)
            return {"copied": step.outputs.out}

        return copies()

    return build


def run(client: LocalMLClient, job: Job, **more: Any) -> Job:
    """Run a job to its end and return it."""
    made = client.jobs.create_or_update(job, **more)
    client.jobs.stream(made.name)
    return client.jobs.get(made.name)


def test_a_pipeline_runs_and_is_read_back(client, copies, capsys, tmp_path):
    """Queued as an entity, streamed with its id and its place, done with outputs that `Model` and `Input` can name."""
    queued = client.jobs.create_or_update(copies(), experiment_name="words", tags={"a": "b"})
    client.jobs.stream(queued.name)
    done = client.jobs.get(queued.name)
    client.jobs.download(done.name, output_name="copied", download_path=tmp_path / "out")

    said = capsys.readouterr().out
    assert isinstance(done, PipelineJob)
    assert (queued.status, done.status) == ("Queued", "Completed")
    assert (done.experiment_name, done.display_name, done.tags) == ("words", "copies", {"a": "b"})
    assert done.outputs["copied"].type == "uri_folder"
    assert said.count(f"RunId: {done.name}\nWeb View: {done.studio_url}\n") == 2
    assert "this workspace's Python" in said  # what stands in for the environment
    assert "Copy a text: started\n" in said
    assert "Execution Summary\n" in said
    assert (tmp_path / "out" / "named-outputs" / "copied" / "text").read_text() == "kopi\nkopi\n"


def test_an_output_is_the_next_job_s_input(client, copies):
    """Under the address that the SDK's own documents use."""
    first = run(client, copies())
    address = f"azureml://jobs/{first.name}/outputs/copied/paths/text"

    second = run(client, copies(3, path=address))

    assert second.status == "Completed"


def test_an_unchanged_step_is_reused_unless_forced(client, copies):
    """Its child job says so, with Azure's properties, and is a job that can be got."""
    first = run(client, copies())
    forced = copies()
    forced.settings.force_rerun = True

    (reused,) = client.jobs.list(parent_job_name=run(client, copies()).name)
    (again,) = client.jobs.list(parent_job_name=run(client, forced).name)

    assert isinstance(reused, CommandJob)
    assert reused.properties["azureml.isreused"] == "true"
    assert reused.properties["azureml.reusedrunid"].startswith(first.name)
    assert "azureml.isreused" not in again.properties
    assert client.jobs.get(again.name).parent_job_name == again.parent_job_name
    with pytest.raises(ResourceNotFoundError, match="has no step 'other'"):
        client.jobs.get(f"{again.parent_job_name}/other")
    assert len(list(client.jobs.list())) == 3


def test_a_step_that_fails_is_what_stream_raises(client, tmp_path):
    """With the step, its last words and its log."""
    failing = command(command="echo sour milk; exit 3", environment="azureml:e:1", display_name="fail")
    made = client.jobs.create_or_update(failing)

    with pytest.raises(JobException) as raised:
        client.jobs.stream(made.name)

    assert str(raised.value).startswith("Exception : ")
    error = json.loads(str(raised.value).removeprefix("Exception : "))["error"]
    assert error["code"] == "UserError"
    assert "sour milk" in str(error)
    assert client.jobs.get(made.name).status == "Failed"


def test_a_command_is_a_job_of_its_own(client, tmp_path):
    """With code, an input and an output, and what it says of itself; it has no children."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "shout.py").write_text(
        "import sys; open(sys.argv[2] + '/text', 'w').write(open(sys.argv[1]).read().upper())"
    )
    shout = command(
        code="./src",
        command="python shout.py ${{inputs.text}} ${{outputs.out}}",
        inputs={"text": Input(type="uri_file", path="words.txt")},
        outputs={"out": Output(type="uri_folder")},
        environment="azureml:e:1",
        compute="no-such-cluster",
        name="shout-1",
        display_name="Shout",
        experiment_name="noise",
        description="Louder",
        tags={"a": "b"},
    )

    done = run(client, shout)

    assert isinstance(done, CommandJob)
    assert (done.name, done.display_name, done.experiment_name) == ("shout-1", "Shout", "noise")
    assert (done.description, done.tags, done.creation_context.created_at.year >= 2026) == ("Louder", {"a": "b"}, True)
    assert (done.inputs["text"].path, done.environment) == (str(tmp_path / "words.txt"), "azureml:e:1")
    assert (done.status, done.command.split()[0]) == ("Completed", "python")
    assert list(client.jobs.list(parent_job_name=done.name)) == []
    client.jobs.download(done.name, output_name="out")
    assert Path("named-outputs/out/text").read_text() == "KOPI\n"


def test_a_file_of_a_job_runs_from_where_it_lies(client, tmp_path):
    """Its paths start at the file, and those of a component at the component's file, as load_job reads them."""
    folder = tmp_path / "elsewhere"
    (folder / "parts").mkdir(parents=True)
    (folder / "tea.txt").write_text("teh\n")
    (folder / "parts" / "sugar.txt").write_text("gula\n")
    (folder / "copy.yml").write_text(yaml.safe_dump(COPY))
    step = {
        "type": "command",
        "component": "../copy.yml",
        "inputs": {"text": {"type": "uri_file", "path": "sugar.txt"}},
    }
    inner = {"type": "pipeline", "name": "inner", "version": "1", "jobs": {"sugar": step}}
    (folder / "parts" / "inner.yml").write_text(yaml.safe_dump(inner))
    job = {
        "type": "pipeline",
        "inputs": {"tea": {"type": "uri_file", "path": "./tea.txt"}},
        "jobs": {
            "tea": {"type": "command", "component": "./copy.yml", "inputs": {"text": "${{parent.inputs.tea}}"}},
            "sugar": {"type": "pipeline", "component": "./parts/inner.yml"},
        },
    }
    (folder / "job.yml").write_text(yaml.safe_dump(job))

    done = run(client, load_job(folder / "job.yml"))

    assert done.status == "Completed"
    assert {child.name.partition("/")[2] for child in client.jobs.list(parent_job_name=done.name)} == {
        "tea",
        "sugar.sugar",
    }


LOGS = """
import mlflow, os
from pathlib import Path

Path("outputs/notes.txt").write_text("notes")
Path("made").mkdir()
Path("made/MLmodel").write_text("flavors: {}")
with mlflow.start_run():
    mlflow.log_metric("accuracy", 0.5)
    mlflow.log_artifacts("made", "model")
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's
def test_what_a_script_logs_is_found_again(client, tmp_path):
    """As notebooks look for it: by the job's name among the runs, and as a model below the job's artifacts."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(LOGS)
    train = command(code="./src", command="python train.py", environment="azureml:e:1", display_name="Train")

    @pipeline(name="logged")
    def logged() -> None:
        step = train()
        step.display_name = "Learn"

    done = run(client, logged(), experiment_name="runs")
    (child,) = client.jobs.list(parent_job_name=done.name)
    models = [
        client.models.create_or_update(Model(name="m", type="mlflow_model", path=f"azureml://jobs/{path}"))
        for path in (
            f"{child.name}/outputs/artifacts/paths/model/",
            f"{done.name}/outputs/artifacts/paths/step/model",
        )
    ]
    client.jobs.download(child.name, download_path=tmp_path / "out", all=True)

    mlflow.set_tracking_uri(client.workspaces.get().mlflow_tracking_uri)
    found = mlflow.search_runs(
        experiment_names=["runs"], filter_string=f"tags.mlflow.rootRunId = '{done.name}'", output_format="list"
    )
    assert {run.info.run_name for run in found} == {done.name, "step"}
    assert all(run.data.metrics["accuracy"] == 0.5 for run in found)
    assert (child.display_name, child.experiment_name) == ("Learn", "runs")
    assert [(model.version, model.job_name) for model in models] == [("1", done.name)] * 2
    assert (tmp_path / "out" / "artifacts" / "model" / "MLmodel").is_file()
    assert (tmp_path / "out" / "artifacts" / "outputs" / "notes.txt").read_text() == "notes"
    notes = f"azureml://jobs/{done.name}/outputs/artifacts/paths/step/outputs/notes.txt"
    assert client.models.create_or_update(Model(name="n", type="custom_model", path=notes)).type == "custom_model"
    with pytest.raises(ResourceNotFoundError, match=r"has no artifact at 'weights'; it left .*outputs, model"):
        client.models.create_or_update(
            Model(name="m", path=f"azureml://jobs/{child.name}/outputs/artifacts/paths/weights")
        )


def test_a_step_is_read_by_its_name_and_ended_with_its_job(client, copies, tmp_path):
    """Its outputs have addresses of their own; what the SDK refuses for a child job is refused."""
    done = run(client, copies())
    (child,) = client.jobs.list(parent_job_name=done.name)

    again = run(client, copies(3, path=f"{child.outputs['out'].path}/paths/text"))
    for _ in range(2):  # the second download writes over the first
        client.jobs.download(child.name, output_name="out", download_path=tmp_path / "out")

    assert again.status == "Completed"
    assert (tmp_path / "out" / "named-outputs" / "out" / "text").read_text() == "kopi\nkopi\n"
    with pytest.raises(JobException, match="the step has no output 'other'; out"):
        client.jobs.download(child.name, output_name="other")
    for refused in (client.jobs.stream, client.jobs.begin_cancel):
        with pytest.raises(PipelineChildJobError, match="not supported on pipeline child job"):
            refused(child.name)


def test_a_job_says_something_else_of_itself(client, copies):
    """What came from here and goes in again does not run again: its description and its tags are kept."""
    done = run(client, copies(), tags={"a": "b"})
    done.tags["c"] = "d"

    again = client.jobs.create_or_update(done)
    updated = client.jobs.update(done.name, display_name="Copies", description="Two")

    found = client.jobs.get(done.name)
    assert (again.name, updated.name, len(list(client.jobs.list()))) == (done.name, done.name, 1)
    assert (found.tags, found.display_name, found.description) == ({"a": "b", "c": "d"}, "Copies", "Two")
    assert (found.settings.force_rerun, found.status) == (None, "Completed")
    assert client.jobs.show_services(done.name) is None
    found.name = None
    with pytest.raises(ValidationException, match=f"`penala jobs rerun {done.name}` runs the same"):
        client.jobs.create_or_update(found)


def test_an_archived_job_leaves_the_list(client, copies):
    """And comes back; it can be got all the time."""
    done = run(client, copies())

    def listed(view: ListViewType) -> list[str | None]:
        return [job.name for job in client.jobs.list(list_view_type=view)]

    client.jobs.archive(done.name)
    assert list(client.jobs.list()) == []
    assert listed(ListViewType.ARCHIVED_ONLY) == listed(ListViewType.ALL) == [done.name]
    assert client.jobs.get(done.name).status == "Completed"
    client.jobs.restore(done.name)
    assert [job.name for job in client.jobs.list()] == [done.name]
    with pytest.raises(ResourceNotFoundError, match="there is no job 'gone'"):
        client.jobs.archive("gone")


def test_no_zombie_is_left(client, copies):
    """A notebook lives for days; the process of each job that it ran is buried."""
    made = run(client, copies())
    deadline = time.monotonic() + 20
    children = Path("/proc/self/task").joinpath(str(os.getpid()), "children")
    while time.monotonic() < deadline:
        client.jobs.get(made.name)
        with Workspace.open(client.path) as workspace:
            mine = workspace.jobs.is_running(made.name)
        states = [
            Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in children.read_text().split()
        ]
        if not mine and "Z" not in states:
            return
        time.sleep(0.1)
    raise AssertionError(states)


def test_everything_that_is_wrong_is_said_before_anything_runs(client, copies):
    """What the SDK lets through: an integer that is none, a file that is not there."""
    with pytest.raises(ValidationException) as raised:
        client.jobs.create_or_update(copies("two", path="./gone.txt"))

    assert "'two'" in str(raised.value)
    assert "gone.txt" in str(raised.value)
    assert list(client.jobs.list()) == []


def test_a_job_is_stopped(client):
    """By a real poller; streaming a canceled job raises nothing."""
    made = client.jobs.create_or_update(command(command="sleep 600", environment="azureml:e:1"))

    client.jobs.begin_cancel(made.name).wait()
    client.jobs.stream(made.name)

    assert client.jobs.get(made.name).status == "Canceled"


def test_ctrl_c_stops_the_stream_and_not_the_job(client, monkeypatch):
    """It raises what the SDK raises, and says how to go on."""
    made = client.jobs.create_or_update(command(command="sleep 600", environment="azureml:e:1"))
    monkeypatch.setattr("penala.workspace.events.time.sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(JobException, match="goes on"):
        client.jobs.stream(made.name)

    monkeypatch.undo()
    assert client.jobs.get(made.name).status in ("Queued", "Running")
    client.jobs.begin_cancel(made.name).wait()


def test_a_client_serves_every_thread(client, copies):
    """A notebook's widgets and pollers call it from threads of their own."""
    found: list[Any] = []
    made = run(client, copies())
    threads = [threading.Thread(target=lambda: found.append(client.jobs.get(made.name).status)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == ["Completed"] * 3


@pytest.mark.parametrize("name", ["gone", "gone/step"])
def test_a_job_that_is_not_there_is_not_found(name, client):
    """Nor a step of one."""
    with pytest.raises(ResourceNotFoundError, match="there is no job 'gone'"):
        client.jobs.get(name)


def test_a_pipeline_without_a_value_is_refused(client, tmp_path):
    """By the input's name; one with a default, and one that is optional, may be left out."""
    (tmp_path / "copy.yml").write_text(yaml.safe_dump(COPY))
    copy = load_component(tmp_path / "copy.yml")

    @pipeline()
    def copies(text: Input, times: int = 1, note: Input(type="string", optional=True) = None) -> None:
        copy(text=text, times=times)

    with pytest.raises(ValidationException, match="the pipeline needs a value for its input 'text'"):
        client.jobs.create_or_update(copies())
    assert client.jobs.create_or_update(copies(Input(type="uri_file", path="words.txt"))).status == "Queued"


def test_an_address_of_a_cloud_s_storage_is_refused(client):
    """By itself, without the `azureml:` that the SDK writes before it."""
    blob = Input(type="uri_file", path="wasbs://box@store.blob.core.windows.net/x.csv")

    with pytest.raises(ValidationException, match=r": wasbs://box@store\.blob\.core\.windows\.net/x\.csv cannot be"):
        client.jobs.create_or_update(command(command="ls ${{inputs.a}}", inputs={"a": blob}, environment="azureml:e:1"))


def test_code_that_is_not_there_is_named(client):
    """As it was written, and not as the SDK writes it down."""
    with pytest.raises(ValidationException) as raised:
        client.jobs.create_or_update(command(command="ls", code="./srcs", environment="azureml:e:1"))

    assert "/srcs" in str(raised.value)
    assert "azureml:" not in str(raised.value)


def test_what_is_no_job_is_refused(client):
    """Before it is looked at."""
    with pytest.raises(ValidationException, match="str is no job"):
        client.jobs.create_or_update("job.yml")


def test_true_and_false_are_what_a_switch_takes(tmp_path):
    """Python's and YAML's, for an input whose enum are the two words; a number stays one."""
    switch = {"type": "string", "enum": ["true", "false"], "optional": True}
    spec = COPY | {"inputs": COPY["inputs"] | {"loud": switch, "quick": switch}}
    (tmp_path / "copy.yml").write_text(yaml.safe_dump(spec))
    (tmp_path / "words.txt").touch()
    copy = load_component(tmp_path / "copy.yml")

    @pipeline(name="copies")
    def copies() -> None:
        copy(text=Input(type="uri_file", path=str(tmp_path / "words.txt")), times=1, loud=True, quick=False)

    (step,) = as_document(copies())["jobs"].values()

    given = {name: value for name, value in step["inputs"].items() if name != "text"}
    assert given == {"times": 1, "loud": "true", "quick": "false"}


def test_the_components_of_penala_are_named_not_copied(tmp_path):
    """So that they run as what they are; a changed copy stays a copy."""
    client = LocalMLClient(registry_name="azureml", path=tmp_path / "ws")

    def document(**changes: Any) -> dict[str, Any]:
        component = client.components.get("chat_completion_pipeline", label="latest")
        for name, value in changes.items():
            setattr(component, name, value)

        @pipeline
        def tune() -> None:
            component(task_name="ChatCompletion")

        return as_document(tune())

    (ours,) = document()["jobs"].values()
    (changed,) = document(description="another")["jobs"].values()
    assert ours["component"].startswith("azureml:chat_completion_pipeline:")
    assert changed["component"]["description"] == "another"
