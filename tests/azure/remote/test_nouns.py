"""`penala endpoints | deployments | invoke --on azureml`, and what jobs and models are asked for."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def ran(azure, recipe, on_azure):
    """A recipe that ran; returns its result."""
    code, result, err = on_azure()
    assert code == 0, err
    return result


@pytest.fixture
def jobs_and_models(place, azure):
    """The nouns of the workspace in Azure, for what has no option of its own yet."""
    from penala.cli.on_azureml import remote

    return remote("azureml")


def test_endpoints_have_the_verbs_of_this_machine(azure, ran, penala):
    """list, show, keys, regenerate-key, traffic and delete, with the fields of a local endpoint."""
    on = ("--on", "azureml")

    code, out, _ = penala("endpoints", "show", "kopi-answers", "--json", *on)
    shown = json.loads(out)
    assert code == 0
    assert shown == ran["endpoint"] | {"provisioning_state": "Succeeded", "traffic": {"demo": 100}}
    assert json.loads(penala("endpoints", "list", "--json", *on)[1]) == [shown]

    penala("endpoints", "regenerate-key", "kopi-answers", "--key", "secondary", *on)
    keys = json.loads(penala("endpoints", "keys", "kopi-answers", "--json", *on)[1])
    assert keys == {"primary_key": "key-1", "secondary_key": "key-3"}

    code, _, err = penala("endpoints", "traffic", "kopi-answers", "demo=60", *on)
    assert code == 2
    assert "the shares add up to 60" in err
    assert penala("endpoints", "traffic", "kopi-answers", "demo=0", *on)[0] == 0

    assert penala("endpoints", "delete", "kopi-answers", "--yes", *on)[0] == 0
    code, _, err = penala("endpoints", "show", "kopi-answers", *on)
    assert code == 1
    assert "no endpoint is called 'kopi-answers'; `penala endpoints list --on azureml`" in err


def test_an_endpoint_is_not_deleted_without_a_yes(azure, ran, penala):
    """The question has no answer here: nothing is deleted."""
    code, _, _ = penala("endpoints", "delete", "kopi-answers", "--on", "azureml")

    assert code == 1
    assert azure.proxy.sent("DELETE", ".") == []


def test_deployments_have_the_verbs_of_this_machine(azure, ran, penala):
    """list, logs and delete; one with traffic is kept."""
    on = ("--on", "azureml")

    (shown,) = json.loads(penala("deployments", "list", "kopi-answers", "--json", *on)[1])
    assert (shown["name"], shown["provisioning_state"]) == ("demo", "Succeeded")
    assert shown["model"].endswith("/models/kopi/versions/1")
    assert "model loaded" in penala("deployments", "logs", "kopi-answers", "demo", *on)[1]
    code, _, err = penala("deployments", "delete", "kopi-answers", "demo", "--yes", *on)
    assert code == 1
    assert "demo has 100 % of the traffic" in err

    penala("endpoints", "traffic", "kopi-answers", "demo=0", *on)
    assert penala("deployments", "delete", "kopi-answers", "demo", "--yes", *on)[0] == 0
    assert json.loads(penala("deployments", "list", "kopi-answers", "--json", *on)[1]) == []


def test_invoke_asks_the_endpoint_in_azure(azure, ran, penala, place):
    """A list of messages becomes a /score body; the answer is printed as it is."""
    (place / "question.json").write_text('[{"role": "user", "content": "Teh?"}]', encoding="utf-8")

    code, out, err = penala("invoke", "kopi-answers", "question.json", "-d", "demo", "--on", "azureml")

    assert code == 0, err
    assert json.loads(out) == {"output": "from demo"}
    last = azure.proxy.sent("POST", "/score")[-1]
    assert last.json["input_data"]["input_string"] == [{"role": "user", "content": "Teh?"}]


def test_jobs_are_listed_shown_followed_and_canceled(azure, ran, jobs_and_models):
    """The same fields as here, and the studio's page."""
    jobs, job = jobs_and_models.jobs, ran["job"]

    assert [(one["name"], one["status"]) for one in jobs.list()] == [(job, "Completed")]
    shown = jobs.show(job)
    assert shown["studio"].startswith(f"https://ml.azure.com/runs/{job}")
    assert [step["status"] for step in shown["jobs"]] == ["Completed"] * 3
    assert "trained_model" in shown["outputs"]
    events = []
    assert jobs.follow(job, events.append) == ("Completed", None)
    assert [event.data["status"] for event in events] == ["completed"] * 3
    assert jobs.cancel(job) == "Canceled"


def test_models_are_listed_and_shown_with_their_job(azure, ran, jobs_and_models):
    """Lineage leads back to the job."""
    models = jobs_and_models.models

    assert models.list() == [{"name": "kopi", "version": "1"}]
    shown = models.show("kopi:1")
    assert shown["job"] == ran["job"]
    assert shown["properties"]["base_model"] == "Phi-4:7"


def test_a_place_that_is_none_is_refused(penala):
    """--on takes azureml or azureml=FILE."""
    code, _, err = penala("endpoints", "list", "--on", "aws")

    assert code == 2
    assert "aws is no place; use azureml or azureml=FILE" in err
