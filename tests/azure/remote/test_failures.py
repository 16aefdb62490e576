"""How each step of `--on azureml` fails: what is said, what was not done, and how to go on."""

import re

import pytest

pytestmark = pytest.mark.slow
WORKSPACE = r"workspaces/kopi$"
TOKEN = "oauth2/v2.0/token"


def test_a_sign_in_that_is_refused_says_how_to_sign_in(azure, recipe, on_azure):
    """Without somebody at a browser, a refused secret ends the run with Azure's reason."""
    azure.proxy.fail("POST", TOKEN, 401, code="invalid_client", times=99)

    code, result, _ = on_azure()

    assert code == 1
    assert result["status"] == "Failed"
    assert "Azure does not sign you in" in result["error"]
    assert "`az login`" in result["error"]
    assert azure.proxy.sent("GET", WORKSPACE) == []


CHECKS = [
    ("GET", WORKSPACE, 401, r"opening the workspace kopi: Azure answers 401 .*`az login`"),
    ("GET", WORKSPACE, 403, r"opening the workspace kopi: Azure answers 403 .*AzureML Data Scientist"),
    ("GET", WORKSPACE, 404, r"opening the workspace kopi: Azure answers 404"),
    ("GET", "azureml/discovery", 403, r"opening the registry azureml: .*403"),
    (
        "GET",
        "components/chat_completion_pipeline",
        500,
        r"looking up chat_completion_pipeline .*500.*the fault is Azure's",
    ),
    ("GET", "azureml/models/Phi-4", 403, r"looking up the base model Phi-4@latest in the registry azureml: .*403"),
    ("GET", "/computes/", 403, r"looking up the compute gpu-cluster: Azure answers 403"),
    ("GET", "/vmSizes", 500, r"looking up the compute gpu-cluster: Azure answers 500"),
    ("GET", "/onlineEndpoints/", 403, r"looking up the endpoint kopi-answers: Azure answers 403"),
]


@pytest.mark.parametrize(("method", "path", "status", "message"), CHECKS)
def test_a_check_that_azure_refuses_stops_before_anything_is_made(
    azure, recipe, on_azure, method, path, status, message
):
    """Each question of the preflight: what was asked, what Azure answered, what to do; nothing was put."""
    azure.proxy.fail(method, path, status, times=99)

    code, result, _ = on_azure()

    assert code == 1
    assert re.search(message, result["error"]), result["error"]
    assert azure.proxy.sent("PUT", ".") == []


def test_a_quota_that_cannot_be_read_is_no_obstacle(azure, recipe, on_azure):
    """It is only a hint."""
    azure.proxy.fail("GET", "/usages", 403, times=99)

    code, _, err = on_azure()

    assert code == 0, err
    assert "the quota could not be read" in err


STEPS = [
    ("/computes/", 403, r"making the cluster gpu-cluster: Azure answers 403.*Compute Operator", None, None),
    ("/jobs/", 409, r"sending the conversations and the job: Azure answers 409 .*it is there with other", None, None),
    ("/jobs/", 500, r"sending the conversations and the job: Azure answers 500 .*the fault is Azure's", None, None),
    ("/models/", 409, r"registering kopi: Azure answers 409", "job", None),
    ("/onlineEndpoints/kopi-answers$", 403, r"making the endpoint kopi-answers: Azure answers 403", "job", "1"),
    ("/deployments/", 403, r"deploying kopi:1 as demo: Azure answers 403.*penala endpoints delete", "job", "1"),
]


@pytest.mark.parametrize(("path", "status", "message", "job", "version"), STEPS)
def test_a_step_that_azure_refuses_ends_the_run_there(azure, recipe, on_azure, path, status, message, job, version):
    """Each billed step: the result names it and keeps what was reached; the error says how to go on."""
    azure.proxy.fail("PUT", path, status, times=99)

    code, result, _ = on_azure()

    assert code == 1
    assert result["status"] == "Failed"
    assert re.search(message, result["error"]), result["error"]
    assert (result["job"] is not None) == (job is not None)
    assert (result["model"] and result["model"]["version"]) == version
    assert result["reply"] is None


def test_too_many_requests_are_waited_out(azure, recipe, on_azure, monkeypatch):
    """429 with Retry-After: the SDK waits as long as Azure asks, then goes on; nothing is sent twice."""
    import time

    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    azure.proxy.fail("PUT", "/jobs/", 429, headers={"Retry-After": "7"}, times=2)

    code, _, err = on_azure()

    assert code == 0, err
    assert [call.status for call in azure.proxy.sent("PUT", "/jobs/")] == [429, 429, 201]
    assert waits.count(7) == 2
    assert len({call.path for call in azure.proxy.sent("PUT", "/jobs/")}) == 1


def test_a_fault_of_azures_that_passes_is_waited_out(azure, recipe, on_azure):
    """One 500 here and there costs seconds, not the run."""
    azure.proxy.fail("PUT", "/jobs/", 500)
    azure.proxy.fail("GET", "/details|/children", 500)
    azure.proxy.fail("PUT", "/models/", 503)

    code, _, err = on_azure()

    assert code == 0, err
    assert len({call.path for call in azure.proxy.sent("PUT", "/jobs/")}) == 1


def test_an_upload_that_is_cut_is_done_again_whole(azure, recipe, on_azure, place):
    """The connection breaks in the middle of the file: what lies in Azure in the end is the whole file."""
    azure.proxy.cut("PUT", "LocalUpload", after=100)

    code, _, err = on_azure()

    assert code == 0, err
    (name,) = [blob for blob in azure.blobs if "LocalUpload" in blob]
    assert azure.blobs[name][0] == (place / "data" / "train.jsonl").read_bytes()


def test_an_upload_that_is_always_cut_sends_no_job(azure, recipe, on_azure):
    """A job without its conversations is never sent; the same command tries again."""
    azure.proxy.cut("PUT", "LocalUpload", after=100, times=99)

    code, result, _ = on_azure()

    assert code == 1
    assert "sending the conversations and the job" in result["error"]
    assert azure.proxy.sent("PUT", "/jobs/") == []

    azure.proxy.faults.clear()
    code, _, err = on_azure()
    assert code == 0, err


def test_a_cluster_without_quota_says_so(azure, recipe, on_azure):
    """The cluster's long operation fails with Azure's code."""
    azure.broken["computes"] = ("OutOfQuota", "no quota for 24 vCPUs")

    code, result, _ = on_azure()

    assert code == 1
    assert "making the cluster gpu-cluster" in result["error"]
    assert "no quota for 24 vCPUs" in result["error"]
    assert "ask for quota" in result["error"]
    assert azure.proxy.sent("PUT", "/jobs/") == []


def test_a_job_that_fails_gives_azures_reason(azure, recipe, on_azure):
    """The reason stands in the run's details; no model is registered, nothing is deployed."""
    azure.job_ends = "Failed"

    code, result, _ = on_azure()

    assert code == 1
    assert result["status"] == "Failed"
    assert "CUDA out of memory" in result["error"]
    assert f"`penala jobs show {result['job']} --on azureml`" in result["error"]
    assert azure.proxy.sent("PUT", "/models/|/onlineEndpoints/") == []


def test_a_job_that_somebody_cancels_ends_the_run(azure, recipe, on_azure):
    """Canceled is no failure of the job, and yet there is no model."""
    azure.job_ends = "Canceled"

    code, result, _ = on_azure()

    assert code == 1
    assert result["status"] == "Canceled"
    assert azure.proxy.sent("PUT", "/models/") == []


def test_losing_azure_while_watching_says_that_the_job_goes_on(azure, recipe, on_azure, penala):
    """A network that is gone for long ends the watching, not the job."""
    azure.proxy.cut("GET", "/children", after=0, times=999)

    code, _, err = penala("run", "recipe.yaml", "--on", "azureml", "--yes")

    assert code == 1
    assert re.search(r"asking after \w+: .*check the network", err), err
    assert re.search(r"`penala run recipe.yaml --on azureml --job \w+` follows it", err)


def test_a_deployment_that_never_gets_ready_leads_to_its_log_and_its_cost(azure, recipe, on_azure):
    """The probes failed: the log and the way to end the cost are in the message."""
    azure.broken["deployments"] = ("ResourceNotReady", "User container has crashed or terminated")

    code, result, _ = on_azure()

    assert code == 1
    assert "User container has crashed" in result["error"]
    assert "`penala deployments logs kopi-answers demo --on azureml`" in result["error"]
    assert "`penala endpoints delete kopi-answers --on azureml`" in result["error"]
    assert result["model"] == {"name": "kopi", "version": "1"}


@pytest.mark.parametrize("status", [401, 404, 424])
def test_a_sample_that_gets_no_reply_leaves_the_endpoint(azure, recipe, on_azure, status):
    """Everything is there but the reply, and the result says so."""
    from fake_azure import refusal

    azure.replies = [refusal(status, "Refused", "the model did not answer")] * 20

    code, result, _ = on_azure()

    assert code == 1
    assert "asking kopi-answers" in result["error"]
    assert "the model did not answer" in result["error"]
    assert result["endpoint"]["scoring_uri"].startswith("https://kopi-answers.")


@pytest.mark.parametrize("body", [[{"0": "from A"}], ["from A"], {"output": "from A"}])
def test_both_of_azures_servers_are_understood(azure, recipe, on_azure, body):
    """The no-code server answers with a list, the other one with an object."""
    from fake_azure import Answer

    azure.replies = [Answer(200, body)]

    code, result, err = on_azure()

    assert code == 0, err
    assert result["reply"] == "from A"


def test_an_empty_answer_is_no_reply(azure, recipe, on_azure):
    """Azure's server B says 200 with {} when something went wrong."""
    from fake_azure import Answer

    azure.replies = [Answer(200, {})]

    code, result, _ = on_azure()

    assert code == 1
    assert "answered without a text" in result["error"]
