"""Job documents: what each feature of Azure ML's job YAML becomes, and everything that is refused before it runs."""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from penala.errors import UsageError
from penala.workspace.addresses import Addresses
from penala.workspace.client import Workspace
from penala.workspace.compute import Settings as ComputeSettings
from penala.workspace.documents import JobDocument, read_job
from penala.workspace.places import Place
from penala.workspace.plan import File, Literal, Plan, Step, Upstream
from penala.workspace.tail import OutputAsset, OutputCopy

Read = Callable[..., JobDocument]
DUMPS = Path(__file__).parent / "dumps"
COUNT = {
    "type": "command",
    "name": "count",
    "version": 2,
    "inputs": {
        "text": {"type": "uri_file"},
        "share": {"type": "number", "default": 1, "min": 0, "max": 1},
        "repeats": {"type": "integer", "optional": True},
        "strict": {"type": "boolean", "default": True},
        "unit": {"type": "string", "enum": ["words", "lines"], "default": "words"},
    },
    "outputs": {"counts": {"type": "uri_folder"}},
    "command": "count ${{inputs.text}} ${{inputs.share}} ${{inputs.strict}} ${{inputs.unit}} "
    "$[[--repeats ${{inputs.repeats}}]] > ${{outputs.counts}}/n",
}


@pytest.fixture
def read(workspace: Workspace, tmp_path: Path) -> Read:
    """Read a document that lies, as job.yml, beside count.yml, words.txt and a code folder."""
    (tmp_path / "count.yml").write_text(yaml.safe_dump(COUNT))
    (tmp_path / "words.txt").write_text("one two")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("print('main')")

    def read(document: Any, **options: Any) -> JobDocument:
        file = tmp_path / "job.yml"
        file.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
        return read_job(file, workspace=workspace, **options)

    return read


def pipeline(**jobs: Any) -> dict[str, Any]:
    return {"type": "pipeline", "jobs": jobs}


def count(**inputs: Any) -> dict[str, Any]:
    return {"type": "command", "component": "./count.yml", "inputs": {"text": {"path": "words.txt"}, **inputs}}


def steps(plan: Plan) -> dict[str, Step]:
    return {step.name: step for step in plan.steps}


def literals(step: Step) -> dict[str, str]:
    return {name: value.text for name, value in step.inputs.items() if isinstance(value, Literal)}


# -- pipelines


def test_a_pipeline_becomes_steps_with_defaults_and_typed_values(read: Read, tmp_path: Path) -> None:
    """Types, choices and defaults are the component's; what is optional and not given is left out."""
    document = read(pipeline(one=count(share=0.5, strict=False)))

    (step,) = document.plan.steps
    assert (step.name, step.component, step.version) == ("one", "count", "2")
    assert literals(step) == {"share": "0.5", "strict": "False", "unit": "words"}
    assert isinstance(text := step.inputs["text"], File)
    assert text.path == str(tmp_path / "words.txt")
    assert (document.kind, document.plan.continue_on_step_failure, document.force_rerun) == ("pipeline", True, False)


def test_inputs_of_the_job_are_read_as_what_takes_them_declares(read: Read) -> None:
    """A job's inputs have no type: the same 1 is a number here and a text there."""
    document = read(
        {
            "type": "pipeline",
            "inputs": {"n": 1, "yes": True, "text": {"type": "uri_file", "path": "./words.txt"}, "none": None},
            "jobs": {
                "one": count(
                    text="${{parent.inputs.text}}",
                    share="${{parent.inputs.n}}",
                    strict={"path": "${{parent.inputs.yes}}"},
                    repeats="${{ parent.inputs.none }}",
                ),
                "two": {
                    "command": "echo ${{inputs.a}} ${{inputs.b}} ${{inputs.c}} $[[${{inputs.d}}]]",
                    "inputs": {
                        "a": "${{parent.inputs.yes}}",
                        "b": "of-${{parent.inputs.n}}-",
                        "c": "${{parent.inputs.text}}",
                        "d": "${{parent.inputs.none}}",
                    },
                },
            },
        }
    )

    found = steps(document.plan)
    assert literals(found["one"]) == {"share": "1", "strict": "True", "unit": "words"}
    assert literals(found["two"]) == {"a": "True", "b": "of-1-"}
    assert isinstance(found["two"].inputs["c"], File)


def test_a_command_written_into_a_pipeline_takes_the_types_of_its_outputs_from_it(read: Read) -> None:
    """Outputs without anything behind their name are folders; a bound one is what the pipeline's is."""
    document = read(
        {
            "type": "pipeline",
            "outputs": {"report": {"type": "uri_file", "mode": "upload"}},
            "jobs": {
                "make": {
                    "command": "echo > ${{outputs.report}}; echo > ${{outputs.rest}}/x",
                    "outputs": {"report": "${{parent.outputs.report}}", "rest": None},
                },
                "use-it": {"command": "cat ${{inputs.it}}", "inputs": {"it": "${{parent.jobs.make.outputs.report}}"}},
            },
        }
    )

    found = steps(document.plan)
    assert found["make"].outputs == {"report": "uri_file", "rest": "uri_folder"}
    assert found["use-it"].inputs == {"it": Upstream("make", "report")}
    assert document.plan.outputs == {"report": Upstream("make", "report")}


def test_pipelines_within_pipelines_are_unfolded(read: Read, tmp_path: Path) -> None:
    """By file, inline and as bare jobs; inputs go in and outputs come out through both levels."""
    inner = {
        "type": "pipeline",
        "name": "inner",
        "inputs": {"text": {"type": "uri_file"}, "share": {"type": "number", "default": 0.25}},
        "outputs": {"counts": {"type": "uri_folder"}},
        "jobs": {
            "first": {
                "component": "./count.yml",
                "inputs": {"text": "${{parent.inputs.text}}", "share": "${{parent.inputs.share}}"},
                "outputs": {"counts": "${{parent.outputs.counts}}"},
            }
        },
    }
    (tmp_path / "inner.yml").write_text(yaml.safe_dump(inner))
    words = {"text": {"type": "uri_file", "path": "words.txt"}}
    document = read(
        {
            "type": "pipeline",
            "outputs": {"all": {}},
            "jobs": {
                "last": {"command": "ls ${{inputs.a}}", "inputs": {"a": "${{parent.jobs.file.outputs.counts}}"}},
                "file": {"type": "pipeline", "component": "file:inner.yml", "inputs": {**words, "share": 0.75}},
                "inline": {"type": "pipeline", "component": inner, "inputs": words},
                "bare": {
                    "type": "pipeline",
                    "inputs": {**words, "share": 0.5},
                    "outputs": {"counts": "${{parent.outputs.all}}"},
                    "jobs": inner["jobs"],
                },
            },
        }
    )

    found = steps(document.plan)
    assert list(found) == ["file.first", "last", "inline.first", "bare.first"]
    shares = [literals(found[f"{name}.first"])["share"] for name in ("file", "inline", "bare")]
    assert shares == ["0.75", "0.25", "0.5"]
    assert found["last"].inputs == {"a": Upstream("file.first", "counts")}
    assert document.plan.outputs == {"all": Upstream("bare.first", "counts")}


def test_a_pipeline_without_declarations_hands_its_inputs_on_unread(read: Read, tmp_path: Path) -> None:
    """What is text to the job is a path, a number and a boolean to the component two levels below."""
    bound = {name: f"${{{{parent.inputs.{name}}}}}" for name in ("text", "share", "strict")}
    inner = {"type": "pipeline", "inputs": bound, "jobs": {"one": {"component": "./count.yml", "inputs": bound}}}
    document = read(
        {"type": "pipeline", "inputs": {"text": "words.txt", "share": "0.5", "strict": True}, "jobs": {"in": inner}}
    )

    (step,) = document.plan.steps
    assert isinstance(text := step.inputs["text"], File)
    assert text.path == str(tmp_path / "words.txt")
    assert literals(step) == {"share": "0.5", "strict": "True", "unit": "words"}


def test_a_job_may_name_the_pipeline_component_that_it_runs(read: Read, workspace: Workspace, tmp_path: Path) -> None:
    """By the id that Azure gives ours, whatever version the registry's has; its steps are the job's own."""
    document = read(
        {
            "type": "pipeline",
            "component": "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82",
            "inputs": {
                "catalogue_model": "SmolLM2-135M-Instruct",
                "train_file_path": {"type": "uri_file", "path": "words.txt"},
                "apply_lora": True,
                "deepspeed_stage": 2,
                "compute_finetune": "gpu-cluster",
            },
        }
    )

    assert len(document.plan.steps) == 6
    assert literals(steps(document.plan)["chat_completion_finetune"])["apply_lora"] == "true"
    assert {step.name for step in document.plan.steps if step.exclusive} == {
        "chat_completion_finetune",
        "chat_completion_evaluation",
    }
    assert set(document.plan.outputs) == {"pytorch_model_folder", "mlflow_model_folder", "evaluation_result"}


def test_settings_resources_and_variables(read: Read) -> None:
    """A node's settings go over its component's key by key; inputs of the pipeline may stand in all of them."""
    component = {
        **COUNT,
        "environment": "azureml:env:1",
        "resources": {"instance_count": 1, "shm_size": "2g"},
        "distribution": {"type": "pytorch", "process_count_per_instance": 1},
        "environment_variables": {"A": "component", "B": 1},
    }
    job = {
        "component": component,
        "inputs": {"text": {"path": "words.txt"}},
        "compute": "azureml:gpus",
        "resources": {"instance_count": "${{parent.inputs.nodes}}", "instance_type": "Standard_NC6s_v3"},
        "distribution": {"type": "PyTorch", "process_count_per_instance": 2},
        "environment_variables": {"A": "run-${{parent.inputs.nodes}}", "C": None},
        "limits": {"timeout": "PT1H30M"},
        "identity": {"type": "user_identity"},
    }
    document = read(
        {
            **pipeline(one=job),
            "inputs": {"nodes": 3},
            "settings": {"force_rerun": True, "continue_on_step_failure": "false", "default_compute": "serverless"},
            "experiment_name": "toys",
            "tags": {"a": "b"},
        }
    )

    (step,) = document.plan.steps
    assert (step.processes, step.nodes, step.timeout_s) == (2, 3, 5400.0)
    assert step.variables == {"A": "run-3", "B": "1", "C": ""}
    assert (document.force_rerun, document.plan.continue_on_step_failure) == (True, False)
    assert document.about["experiment_name"] == "toys"
    assert document.about["document"]["jobs"]["one"]["resources"]["instance_type"] == "Standard_NC6s_v3"
    notes = "\n".join(document.notes)
    assert "no compute 'gpus' here: its steps run on this machine" in notes
    assert "stands in for the environments azureml:env:1" in notes


def test_environments_are_told_as_a_person_names_them(read: Read) -> None:
    """What is written out is not printed, but makes a step another one."""
    environment = {"image": "ubuntu", "conda_file": {"name": "a"}, "build": {"path": "./docker"}}
    notes = "\n".join(read({"command": "ls", "environment": environment}).notes)
    (step,) = read({"command": "ls", "environment": {**environment, "conda_file": {"name": "b"}}}).plan.steps

    assert re.search(r"the environments image ubuntu, inline conda_file \w{8}, build ./docker$", notes)
    assert step.environment not in notes


def test_of_several_writers_of_an_output_the_first_is_kept_and_told(read: Read) -> None:
    """Else the others' would be missed in silence."""
    job = {"command": "ls > ${{outputs.o}}/x", "outputs": {"o": "${{parent.outputs.all}}"}}
    document = read({**pipeline(a=job, b=job), "outputs": {"all": None}})

    assert document.plan.outputs == {"all": Upstream("a", "o")}
    assert document.notes[0].endswith("outputs.all: a, b write it; what a writes is kept")


@pytest.mark.parametrize("command", ["pip install -r r.txt && ls", "python -m pip  install x"])
def test_a_command_that_installs_packages_is_told(read: Read, command: str) -> None:
    """On Azure ML it changes a container that is thrown away."""
    assert read({"command": command}).notes == ("packages that the command of main installs are there for it alone",)
    assert not read({"command": "echo pipx installed"}).notes


def test_a_compute_that_is_there_must_be_large_enough(read: Read, workspace: Workspace) -> None:
    """A created compute stands in for its size, and has no more nodes than it was given."""
    workspace.computes.create("gpus", "Standard_NC24ads_A100_v4", ComputeSettings(max_instances=2))
    job = {"command": "ls", "compute": "azureml:gpus", "distribution": {"type": "pytorch"}}

    assert not read({**job, "resources": {"instance_count": 2}}).notes
    with pytest.raises(UsageError, match=r"job.yml:2: compute: 'gpus' has 2 nodes, and 3 are asked for"):
        read({**job, "resources": {"instance_count": 3}})
    (note,) = read({**pipeline(a={"command": "ls"}), "settings": {"default_compute": "azureml:cpus"}}).notes
    assert note.endswith("job.yml: settings.default_compute)")


def test_outputs_with_a_name_become_assets(read: Read) -> None:
    """A name on the pipeline's output, or on one that only a job has; custom paths are told."""
    document = read(
        {
            "type": "pipeline",
            "outputs": {
                "report": {"name": "report", "version": 3, "path": "azureml://datastores/d/paths/${{name}}/"},
                "last": {"type": "uri_folder"},
            },
            "jobs": {
                "one": {**count(), "outputs": {"counts": "${{parent.outputs.report}}"}},
                "last": {**count(), "outputs": {"counts": {"path": "${{parent.outputs.last}}", "name": "last"}}},
                "two": {
                    "type": "pipeline",
                    "jobs": {
                        "in": {
                            "command": "echo > ${{outputs.model}}/MLmodel",
                            "outputs": {"model": {"type": "mlflow_model", "name": "toy", "path": "wasbs://a/b"}},
                        }
                    },
                },
            },
        }
    )

    assert document.tail.assets == (
        OutputAsset("report", "uri_folder", "report", "3"),
        OutputAsset("last", "uri_folder", "last", None),
        OutputAsset("two.in.model", "mlflow_model", "toy", None),
    )
    assert document.plan.outputs["two.in.model"] == Upstream("two.in", "model")
    assert document.tail.copies == (OutputCopy("report", "d", "${{name}}/"),)
    assert any("azureml://datastores/d/paths/${{name}}/ is /" in note for note in document.notes)
    told = "jobs.two.jobs.in.outputs.model: is kept in the workspace, not at wasbs://a/b"
    assert any(note.endswith(told) for note in document.notes)


# -- command jobs


def test_a_command_job_is_a_plan_of_one_step(read: Read) -> None:
    """`command` is the type of a document that names none; its outputs are the job's; it runs again each time."""
    document = read(
        {
            "name": "my-job.1",
            "command": "python main.py ${{inputs.n}} ${{inputs.link}} ${{inputs.flag}} > ${{outputs.out}}",
            "code": "code",
            "inputs": {"n": 0.1, "link": "https://example.com/x", "flag": True},
            "outputs": {"out": {"type": "uri_file", "mode": "rw_mount"}},
            "environment": {"image": "python:3.11", "conda_file": "conda.yml"},
            "resources": {"instance_count": 2},
            "services": {"jupyter": {"type": "jupyter_lab"}},
        }
    )

    (step,) = document.plan.steps
    assert (document.kind, document.name, step.name, step.deterministic) == ("command", "my-job.1", "main", False)
    assert literals(step) == {"n": "0.1", "link": "https://example.com/x", "flag": "True"}
    assert document.plan.outputs == {"out": Upstream("main", "out")}
    assert step.source is not None
    assert {"services are not started here"} < set(document.notes)
    assert any("started once, not 2 times" in note for note in document.notes)


def test_values_of_the_command_line_change_the_document(read: Read) -> None:
    """--set takes dotted keys and YAML values, of keys that are there and of new ones."""
    document = read(
        pipeline(one=count()), set_=["jobs.one.inputs.share=0.5", "settings.force_rerun=true", "display_name=x=y"]
    )
    changes = ["command=echo a: b", "tags={a: b}", "inputs.x=- 1", "description=2024-13-45"]
    command = read({"command": "ls"}, set_=changes)

    assert literals(document.plan.steps[0])["share"] == "0.5"
    assert (document.force_rerun, document.display_name) == (True, "x=y")
    assert (command.plan.steps[0].command, command.about["tags"]) == ("echo a: b", {"a": "b"})
    assert command.about["description"] == "2024-13-45"  # a date to YAML, of no year
    assert literals(command.plan.steps[0]) == {"x": "- 1"}
    with pytest.raises(UsageError, match="--set nothing: is not KEY=VALUE"):
        read(pipeline(one=count()), set_=["nothing"])
    with pytest.raises(UsageError, match="type holds no keys"):
        read(pipeline(one=count()), set_=["type.x=1"])


def test_what_the_sdk_dumps_is_read(workspace: Workspace, tmp_path: Path) -> None:
    """azure-ai-ml 1.35 writes components inline, prefixes, 1 for True, text for limits, and drops inputs of no type."""
    (tmp_path / "words.txt").write_text("one two")
    mapping = yaml.safe_load((DUMPS / "pipeline.yml").read_text())
    document = read_job(mapping, workspace=workspace, folder=tmp_path)

    found = steps(document.plan)
    assert list(found) == ["both.first", "both.second", "total"]
    assert literals(found["total"]) == {
        "share": "1.0", "repeats": "3", "strict": "True", "unit": "lines", "label": "it's",
    }  # fmt: skip
    assert literals(found["both.second"])["label"] == "second half"
    assert {step.inputs["text"] for step in document.plan.steps} == {found["total"].inputs["text"]}
    assert found["total"].inputs["counts"] == Upstream("both.first", "counts")
    assert (found["total"].processes, found["total"].timeout_s) == (2, 60.0)
    assert found["both.second"].variables == {"HALF": "2"}
    assert document.plan.outputs == {
        "total": Upstream("total", "counts"),
        "other": Upstream("both.second", "counts"),
    }
    assert document.tail.assets == (OutputAsset("total", "uri_folder", "word_counts", "3"),)
    assert (document.force_rerun, document.display_name) == (True, "Count words")


def test_a_document_survives_its_way_into_the_store(read: Read) -> None:
    """Plan, tail and all that is said beside them are JSON, dates and windows' line ends included."""
    document = read("# saved by another editor\r\ncommand: echo hi\r\ntags: {since: 2024-01-01, 2024-02-01: x}\r\n")

    assert Plan.from_json(json.loads(json.dumps(document.plan.to_json()))) == document.plan
    assert json.loads(json.dumps(document.about))["tags"] == {"since": "2024-01-01", "2024-02-01": "x"}


# -- addresses


def test_paths_are_found_in_every_form(read: Read, workspace: Workspace, tmp_path: Path) -> None:
    """Beside the document, behind file: and azureml:, in the workspace's datastores, as data assets."""
    store = workspace.folder / "datastores" / "blob" / "in" / "words.txt"
    store.parent.mkdir(parents=True)
    store.write_text("stored")
    workspace.data.add("words", tmp_path / "words.txt")
    arm = "azureml://subscriptions/s/resourcegroups/g/workspaces/w"
    here = ["words.txt", "./words.txt", "file:words.txt", f"file://{tmp_path}/words.txt", "azureml:./words.txt"]
    stored = ["azureml://datastores/blob/paths/in/words.txt", f"{arm}/datastores/blob/paths/in/words.txt"]
    assets = ["azureml:words:1", "azureml:words@latest", "azureml://locations/l/workspaces/w/data/words/versions/1"]
    addresses = [*here, *stored, *assets]
    document = read(
        pipeline(**{f"job{n}": count(text={"type": "uri_file", "path": path}) for n, path in enumerate(addresses)})
    )

    found = [Path(step.inputs["text"].path).read_text() for step in document.plan.steps]  # type: ignore[union-attr]
    assert found == ["one two"] * 5 + ["stored"] * 2 + ["one two"] * 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "holds the workspace itself, which changes; give a folder without it"),
        ("word.txt", "there is no .*/word.txt; check the path"),
        ("~$words.txt", r"there is no .*/~\$words.txt; check the path"),
        ("azureml:wordz:1", "no data asset is called 'wordz'"),
        ("azureml://jobs/none/outputs/o", "there is no job 'none'"),
        ("azureml://datastores/blob/paths/x", "the datastore 'blob' has no x here; put its files into"),
        ("wasbs://c@a.blob.core.windows.net/x", "cannot be reached from here"),
        ("runs:/1234/model", "cannot be reached from here"),
        ("http://127.0.0.1:9/x.csv", "http://127.0.0.1:9/x.csv cannot be fetched"),
        ("http://127.0.0.1:x/x.csv", "http://127.0.0.1:x/x.csv is no link: Invalid port: 'x'"),
        ("http://a..b/x.csv", r"http://a..b/x.csv cannot be fetched: .*label empty or too long"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused(read: Read, path: str, message: str) -> None:
    """Each with its key and what to do."""
    with pytest.raises(UsageError, match=rf"job.yml:\d+: jobs.one.inputs.text: .*{message}"):
        read(pipeline(one=count(text={"type": "uri_file", "path": path})))


def test_a_link_may_be_fetched_by_two_at_once(workspace: Workspace, tmp_path: Path) -> None:
    """Both get the whole file, whoever is faster."""
    begun, others_done = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_first = not begun.is_set()
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"half")
            begun.set()
            if is_first:
                others_done.wait(10)
            self.wfile.write(b"half")

        def log_message(self, *_: Any) -> None:
            pass

    def fetch() -> str:
        with Workspace.open(workspace.folder) as opened:
            link = f"http://127.0.0.1:{server.server_port}/rows.csv"
            return Path(Addresses(opened)(link, "uri_file", Place("job", tmp_path)).path).read_text()

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server, ThreadPoolExecutor(3) as pool:
        pool.submit(server.serve_forever, 0.01)
        try:
            slow = pool.submit(fetch)
            assert begun.wait(10)
            fast = pool.submit(fetch).result()
            others_done.set()
            found = [fast, slow.result()]
        finally:
            server.shutdown()

    assert found == ["halfhalf", "halfhalf"]
    assert [path.name for path in workspace.folder.glob("data/*/*")] == ["rows.csv"]


# -- code


def test_code_is_kept_by_content_without_what_the_ignore_file_names(
    read: Read, workspace: Workspace, tmp_path: Path
) -> None:
    """.amlignore wins over .gitignore; caches and the workspace itself never come along; the same code is kept once."""
    code = tmp_path / "code"
    for name in ("data/big.bin", "logs/x.log", "lib/__pycache__/a.pyc", "lib/a.py", ".git/HEAD", "keep.log"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(name)
    (code / "loop").symlink_to(code)
    (code / ".gitignore").write_text("*.py\n")
    (code / ".amlignore").write_text("data/\n*.log\n!keep.log\n")
    job = {"command": "python main.py", "code": "./code"}
    document = read(pipeline(one=job, two=job))

    sources = {step.source for step in document.plan.steps}
    assert len(sources) == 1
    kept = workspace.artifacts / str(sources.pop())
    names = sorted(path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file())
    assert names == [".amlignore", ".gitignore", "keep.log", "lib/a.py", "main.py"]
    (code / "main.py").write_text("print('changed')")
    assert {step.source for step in read(pipeline(one=job)).plan.steps}.isdisjoint(sources)


def test_code_may_be_one_file_and_have_additions(read: Read, workspace: Workspace, tmp_path: Path) -> None:
    """A file is a folder with one file; additional_includes lie beside the code under their own names."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "helper.py").write_text("")
    component = {**COUNT, "code": "code/main.py", "additional_includes": ["./shared", "words.txt"]}
    document = read(pipeline(one={"component": component, "inputs": {"text": {"path": "words.txt"}}}))

    kept = workspace.artifacts / str(document.plan.steps[0].source)
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()) == [
        "main.py",
        "shared/helper.py",
        "words.txt",
    ]


# -- what is refused


@pytest.mark.parametrize("kind", ["sweep", "parallel", "spark", "automl", "import", "data_transfer"])
def test_jobs_that_other_programs_run_are_refused_by_name(read: Read, kind: str) -> None:
    """As a document, as a job of a pipeline, and as a component."""
    with pytest.raises(UsageError, match=f"job.yml:1: type: an? {kind} job does not run in this workspace") as refused:
        read({"type": kind})
    assert refused.value.exit_code == 2
    with pytest.raises(UsageError, match=rf"jobs.one: is of type {kind}, which this workspace does not run"):
        read(pipeline(one={"type": kind}))
    with pytest.raises(UsageError, match=rf"jobs.one.component: is of type {kind}"):
        read(pipeline(one={"component": {"type": kind, "name": "x"}}))


@pytest.mark.parametrize("kind", ["do_while", "parallel_for", "if_else"])
def test_control_flow_is_refused_by_name(read: Read, kind: str) -> None:
    """And nothing of the pipeline is started; its own keys are not called misspelt ones of ours."""
    with pytest.raises(UsageError, match=rf"^\S+ jobs.loop: is of type {kind}, which this workspace does not run"):
        read(pipeline(one=count(), loop={"type": kind, "body": "${{parent.jobs.one}}", "condition": "x"}))


REFUSED: dict[str, tuple[Any, str]] = {
    "no type": ({"type": "pipelin", "jobs": {"a": {"command": "ls"}}}, "'pipelin' is no type of job; did you mean"),
    "no jobs": ({"type": "pipeline"}, "there are no jobs"),
    "no command": ({"type": "command"}, "has no command"),
    "a list": ("[1, 2]", "is not a job document"),
    "no YAML": ("a: [", r"job.yml:\d+: is not YAML"),
    "an alias within its anchor": ("command: ls\ntags: &a {x: *a}\n", "job.yml: is not YAML: Circular reference"),
    "job key": ({"command": "ls", "comput": "x"}, "job.yml:2: unknown key 'comput'; did you mean 'compute'"),
    "variable name": ({"command": "ls", "environment_variables": {"A=B": 1}}, "'A=B' is no name for a variable"),
    "variable": (
        {"command": "ls", "environment_variables": {"A": "${{inputs.x}}"}},
        "environment_variables.A: the pipeline has no input 'x'",
    ),
    "node key": (pipeline(a={"command": "ls", "input": {}}), "jobs.a: unknown key 'input'; did you mean 'inputs'"),
    "node name": (pipeline(**{"a/b": {"command": "ls"}}), "jobs.a/b: is no name for a job"),
    "job name": ({"command": "ls", "name": "../x"}, "'../x' is no name for a job"),
    "setting": ({**pipeline(a=count()), "settings": {"force_rerum": 1}}, "did you mean 'force_rerun'"),
    "flag": ({**pipeline(a=count()), "settings": {"force_rerun": "maybe"}}, "force_rerun: is 'maybe'; use true"),
    "finalizer": ({**pipeline(a=count()), "settings": {"on_finalize": "a"}}, "on_finalize: is not run"),
    "unknown input": (pipeline(a=count(shaer=1)), "'count' has no input 'shaer'; did you mean 'share'"),
    "missing input": (pipeline(a={"component": "./count.yml"}), "jobs.a.inputs.text: needs a value"),
    "maximum": (pipeline(a=count(share=2)), "jobs.a.inputs.share: is 2.0; use 1 or less"),
    "enum": (pipeline(a=count(unit="word")), "is 'word'; use words, lines; did you mean 'words'"),
    "integer": (pipeline(a=count(repeats=1.5)), "is 1.5; use a whole number"),
    "list": ({"command": "ls ${{inputs.a}}", "inputs": {"a": [1, 2]}}, "inputs.a: is a list; give one value"),
    "boolean": (pipeline(a=count(strict="often")), "is 'often'; use true or false"),
    "data for a literal": (pipeline(a=count(share={"type": "uri_file", "path": "words.txt"})), "takes a number"),
    "literal for data": (pipeline(a=count(text=3)), "is 3; give the path of a uri_file"),
    "step for a literal": (
        pipeline(a=count(), b=count(share="${{parent.jobs.a.outputs.counts}}")),
        "takes a number, but is given a file or folder",
    ),
    "no such job": (pipeline(a=count(text="${{parent.jobs.aa.outputs.counts}}")), "no job 'aa'; did you mean 'a'"),
    "no such output": (
        pipeline(a=count(), b=count(text="${{parent.jobs.a.outputs.count}}")),
        "job 'a' has no output 'count'; did you mean 'counts'",
    ),
    "no such parent": (pipeline(a=count(text="${{parent.inputs.x}}")), "the pipeline has no input 'x'; declare it"),
    "strange binding": (pipeline(a=count(text="${{parent.steps.x}}")), r"is \${{parent.steps.x}}; use"),
    "unset parent": (
        {**pipeline(a=count(text="${{parent.inputs.x}}")), "inputs": {"x": None}},
        "inputs.text: needs a value; give the pipeline's input 'x' one",
    ),
    "cycle": (
        pipeline(
            a={"command": "ls ${{inputs.x}}", "inputs": {"x": "${{parent.jobs.b.outputs.o}}"}, "outputs": {"o": None}},
            b={"command": "ls ${{inputs.x}}", "inputs": {"x": "${{parent.jobs.a.outputs.o}}"}, "outputs": {"o": None}},
        ),
        "the jobs a, b wait for one another",
    ),
    "output target": (
        pipeline(a={**count(), "outputs": {"counts": "${{parent.outputs.x}}"}}),
        "the pipeline has no output 'x'",
    ),
    "node output": (pipeline(a={**count(), "outputs": {"count": None}}), "'count' has no output 'count'; did you mean"),
    "placeholder": ({"command": "ls ${{inputs.a}}"}, "uses inputs.a, which is not declared"),
    "unset placeholder": ({"command": "ls ${{inputs.a}}", "inputs": {"a": None}}, "needs inputs.a, which has no value"),
    "open quote": ({"command": "echo 'abc"}, "command: .*cannot be read: No closing quotation"),
    "expression": ({"command": "ls ${{search_space.x}}"}, r"uses \${{search_space.x}}"),
    "component": (pipeline(a={"component": "./none.yml"}), "jobs.a.component: .*none.yml: there is no such component"),
    "asset": (
        pipeline(a={"component": "azureml:chat_completion_finetun:1"}),
        "did you mean 'chat_completion_finetune'",
    ),
    "component type": (pipeline(a={"type": "pipeline", "component": "./count.yml"}), "give one of type pipeline"),
    "input type": (pipeline(a=count(text={"type": "uri_fil", "path": "words.txt"})), "did you mean 'uri_file'"),
    "mode": (pipeline(a=count(text={"path": "words.txt", "mode": "ro_mont"})), "did you mean 'ro_mount'"),
    "output mode": ({"command": "ls", "outputs": {"o": {"mode": "uplod"}}}, "did you mean 'upload'"),
    "folder": (
        {"command": "ls ${{inputs.a}}", "inputs": {"a": {"type": "uri_folder", "path": "words.txt"}}},
        "words.txt is a file; give a folder",
    ),
    "code": ({"command": "ls", "code": "nowhere"}, "code: there is no .*nowhere"),
    "git code": ({"command": "ls", "code": "git+https://github.com/x/y"}, "which is not on this machine"),
    "mpi": (
        {"command": "ls", "distribution": {"type": "mpi", "process_count_per_instance": 2}},
        "distribution: is of type mpi, which this workspace does not start; use pytorch",
    ),
    "no distribution": (
        {"command": "ls", "distribution": {"process_count_per_instance": 1}},
        "has no type; add `type: py",
    ),
    "distribution": ({"command": "ls", "distribution": {"type": "gloo"}}, "is of unknown type 'gloo'; use pytorch"),
    "instances": ({"command": "ls", "resources": {"instance_count": 0}}, "instance_count: is 0; use 1 or more"),
    "timeout": ({"command": "ls", "limits": {"timeout": -1}}, "timeout: is '-1'; write seconds"),
    "no time": ({"command": "ls", "limits": {"timeout": "PT0S"}}, "timeout: is 'PT0S'; write seconds, above 0"),
    "too long": ({"command": "ls ${{inputs.a}}", "inputs": {"a": "x" * 131072}}, "longer than 131071 bytes"),
    "no value": ('command: ls ${{inputs.a}}\ninputs: {a: "\\0"}', "holds a NUL character"),
    "datastore": (
        {"command": "ls", "outputs": {"o": {"path": "azureml://datastores/d/paths/../../x"}}},
        "leads out of",
    ),
    "asset name": ({"command": "ls", "outputs": {"o": {"name": "a:b"}}}, "outputs.o: .*is no name of an asset"),
    "not honoured": (
        {
            "type": "pipeline",
            "component": "azureml:chat_completion_pipeline:0.1.0",
            "inputs": {"train_file_path": {"path": "words.txt"}, "apply_lora": "true", "optim": "adafactor"},
        },
        "inputs.optim: cannot be honoured yet; leave it out; only its default, adamw_torch, runs",
    ),
    "settings that cannot train": (
        {
            "type": "pipeline",
            "component": "azureml:chat_completion_pipeline:0.1.0",
            "inputs": {"train_file_path": {"path": "words.txt"}, "lora_dropout": 1, "huggingface_id": "o/m"},
        },
        "lora_dropout: is 1.0; use a number from 0 to below 1",
    ),
    "both": ({"type": "pipeline", "component": "./count.yml", "jobs": {"a": count()}}, "both `jobs` and `component`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_document_that_cannot_run_is_refused(read: Read, workspace: Workspace, name: str) -> None:
    """With exit code 2, the key and how to mend it; no job is made."""
    document, message = REFUSED[name]

    with pytest.raises(UsageError, match=message) as refused:
        read(document)
    assert refused.value.exit_code == 2
    assert "job.yml" in str(refused.value)
    assert not workspace.jobs.list()
    assert not list(workspace.artifacts.iterdir())


def test_all_problems_are_told_at_once_with_their_lines(read: Read) -> None:
    """Of the document and of the components that it names, in one message."""
    document = """\
type: pipeline
settings: {force_rerum: true}
jobs:
  one:
    component: ./count.yml
    inputs:
      share: many
      text: {type: uri_file, path: gone.txt}
  two:
    type: sweep
  three:
    command: ls ${{inputs.x}}
    inputs:
      x: ${{parent.jobs.two.outputs.model}}
"""
    with pytest.raises(UsageError) as refused:
        read(document)

    text = str(refused.value)
    assert text.startswith("4 problems\n")
    for line, part in ((2, "force_rerum"), (7, "share: is 'many'"), (8, "gone.txt"), (9, "sweep")):
        assert any(f"job.yml:{line}: " in told and part in told for told in text.splitlines()), text
    assert "three" not in text  # it waits for a job that is a problem already


# -- finetuning


@pytest.fixture
def finetuning(tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(12)
    ]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "type": "finetuning",
        "task": "chat_completion",
        "model_provider": "custom",
        "model": {
            "path": "azureml://registries/azureml/models/SmolLM2-135M-Instruct/labels/latest",
            "type": "mlflow_model",
        },
        "compute": "gpu-cluster",
        "training_data": "train.jsonl",
        "validation_data": {"path": "azureml:./validation.jsonl", "type": "uri_file"},
        "hyperparameters": {"num_train_epochs": "2", "learning_rate": "0.00002", "lora_r": None},
        "properties": {"p": "q"},
        "tags": {"t": "u"},
        "outputs": {"registered_model": {"name": "tuned", "type": "mlflow_model"}},
    }


def test_a_finetuning_document_is_our_pipeline_with_a_registration(
    read: Read, finetuning: dict[str, Any], tmp_path: Path
) -> None:
    """Hyperparameters win over penala's defaults, which win over the component's; the model gets its name."""
    document = read(finetuning)

    found = steps(document.plan)
    settings = literals(found["chat_completion_finetune"])
    assert (settings["num_train_epochs"], settings["learning_rate"], settings["apply_lora"]) == ("2", "2e-05", "true")
    data = found["chat_completion_datapreprocess"].inputs
    assert isinstance(data["train_file_path"], File)
    assert isinstance(data["validation_file_path"], File)
    assert data["validation_file_path"].path == str(tmp_path / "validation.jsonl")
    assert document.kind == "finetuning"
    assert document.tail.register is not None
    assert (document.tail.register.name, document.tail.register.version) == ("tuned", None)
    assert document.tail.register.tags == {"t": "u"}
    assert document.plan.outputs["registered_model"] == document.plan.outputs[document.tail.register.output]
    assert document.about["properties"] == {"p": "q"}


@pytest.mark.parametrize("task", ["chat_completion", "chatCompletion", "ChatCompletion"])
def test_the_task_is_read_in_every_spelling_of_the_sdk(read: Read, finetuning: dict[str, Any], task: str) -> None:
    """The SDK takes one, dumps another."""
    assert read({**finetuning, "task": task}).kind == "finetuning"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "text_completion"},
            "task: text_completion does not run in this workspace; only chat_completion does",
        ),
        ({"task": "textClassification"}, "task: text_classification does not run"),
        ({"task": None}, "task: is missing"),
        ({"model_provider": "azure_openai"}, "model_provider: azure_openai does not run"),
        ({"model_provider": "custm"}, "model_provider: is 'custm'; did you mean 'custom'"),
        ({"model": None}, "model: is missing"),
        ({"model": {"path": "azureml:SmolLM2-135M-Instruc:1"}}, "model: .*did you mean 'SmolLM2-135M-Instruct'"),
        ({"training_data": None}, "training_data: is missing"),
        ({"training_data": {"type": "uri_file"}}, "training_data: is missing"),
        ({"outputs": {"registered_model": {"name": "a/b"}}}, "registered_model: .*is no name of an asset"),
        ({"training_data": "gone.jsonl"}, "training_data: there is no .*gone.jsonl"),
        ({"hyperparameters": {"lora_rank": "8"}}, "lora_rank: is no input of the fine-tuning component"),
        ({"hyperparameters": {"num_train_epoch": "8"}}, "did you mean 'num_train_epochs'"),
        ({"hyperparameters": {"learning_rate": "fast"}}, "learning_rate: is 'fast'; use a number"),
        ({"outputs": {"registered_model": {"type": "mlflow_model"}}}, "registered_model.name: is missing"),
        ({"outputs": {"registered": {"name": "x"}}}, "a finetuning job has no output 'registered'"),
    ],
)
def test_a_finetuning_document_that_cannot_run_is_refused(
    read: Read, finetuning: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    """By name, with its key."""
    with pytest.raises(UsageError, match=rf"job.yml.*{message}") as refused:
        read({**finetuning, **changes})
    assert refused.value.exit_code == 2
