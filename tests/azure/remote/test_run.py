"""`penala run RECIPE --on azureml` against the fake: what it sends, what it says, how it is taken up again."""

import os
import signal

from fake_azure import contents, golden


def test_a_recipe_runs_to_the_reply_of_its_endpoint(azure, recipe, on_azure):
    """One command: cluster, job, model version with lineage, endpoint, reply; the result line says it all."""
    code, result, err = on_azure()

    assert code == 0, err
    job = result["job"]
    assert result == {
        "event": "result",
        "status": "Completed",
        "job": job,
        "error": None,
        "model": {"name": "kopi", "version": "1"},
        "endpoint": {
            "name": "kopi-answers",
            "scoring_uri": "https://kopi-answers.eastus.inference.ml.azure.com/score",
            "openai_base_url": None,
        },
        "ledger": None,
        "training": None,
        "evaluation": None,
        "reply": "from demo",
    }
    (model,) = azure.proxy.sent("PUT", "/models/kopi/versions/1")
    assert model.json["properties"]["modelUri"] == f"azureml://jobs/{job}/outputs/trained_model"
    assert model.json["properties"]["properties"]["base_model"] == "Phi-4:7"


def test_it_sends_what_the_tutorial_sends(azure, recipe, on_azure, place):
    """With the tutorial's parameters, the bodies are the golden ones; what differs is told by name, here."""
    tags = contents.allowed(contents.V100) | {"model_specific_defaults": str(contents.DEFAULTS)}
    tags["inference_compute_allow_list"] = "['Standard_NC6s_v3']"
    azure.models = {"Phi-3-mini-4k-instruct": {"3": contents.registry_model(tags)}}
    for split in ("train_sft", "test_sft"):
        contents.write_conversations(place / "ultrachat" / f"{split}.jsonl")
    recipe(
        base_model="Phi-3-mini-4k-instruct",
        conversations={"train": "ultrachat/train_sft.jsonl", "test": "ultrachat/test_sft.jsonl"},
        finetuning={
            "num_train_epochs": 3,
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "learning_rate": 5e-6,
            "lr_scheduler_type": "cosine",
            "apply_lora": "true",
            "apply_deepspeed": "true",
            "deepspeed_stage": 2,
        },
        settings={"force_rerun": True},
        model={"name": "Phi-3-mini-4k-instruct-ultrachat-200k", "version": "1700000000"},
        endpoint={
            "name": "ultrachat-completion-17",
            "deployment": "demo",
            "request_settings": {"request_timeout_ms": 90000},
        },
        azureml={
            "compute": {"name": "gpu-cluster", "size": contents.V100},
            "instance_type": "Standard_NC6s_v3",
            "allow_retired": True,
        },
    )

    code, _, err = on_azure()

    assert code == 0, err
    sent, wanted = golden.sent(azure.proxy), {name: golden.read(name) for name in golden.SENT}
    assert sent["compute"] == wanted["compute"]
    job, tutorials = (bodies["job"][0]["properties"] for bodies in (sent, wanted))
    inputs, theirs = (one["jobs"]["chat_completion_pipeline"].pop("inputs") for one in (job, tutorials))
    assert values(inputs) == values(theirs) | {
        "num_train_epochs": 3.0,  # the user's wins over the publisher's; in the tutorial it is the other way round
        "lora_r": 16.0,  # penala's own defaults
        "lora_alpha": 32.0,
    }
    assert job.pop("displayName") == "Phi-3-mini-4k-instruct-ultrachat-200k"
    tutorials.pop("displayName")
    assert job == tutorials
    model, theirs = (bodies["model"][0]["properties"] for bodies in (sent, wanted))
    assert {key: model[key] for key in ("modelUri", "modelType")} == {
        key: theirs[key] for key in ("modelUri", "modelType")
    }
    assert [without_words(one) for one in sent["endpoint"]] == [without_words(one) for one in wanted["endpoint"]]
    deployment, theirs = (bodies["deployment"][0] for bodies in (sent, wanted))
    assert deployment["properties"].pop("readinessProbe") == {
        "initialDelay": "PT1M",
        "period": "PT30S",
        "timeout": "PT10S",
        "failureThreshold": 60,
    }
    assert deployment["properties"]["livenessProbe"].pop("initialDelay") == theirs["properties"]["livenessProbe"].pop(
        "initialDelay"
    )
    assert deployment["properties"].pop("livenessProbe") == {
        "period": "PT30S",
        "timeout": "PT10S",
        "failureThreshold": 30,
    }
    theirs["properties"].pop("livenessProbe")
    asked = deployment["properties"].pop("requestSettings")
    assert asked["requestTimeout"] == theirs["properties"].pop("requestSettings")["requestTimeout"]
    assert deployment == theirs


def values(inputs):
    """Return a step's inputs with numbers as numbers: 5e-6 and 5e-06 are the same to a component."""
    found = {}
    for name, one in inputs.items():
        value = one.get("value", one.get("uri"))
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found


def without_words(endpoint):
    """Return an endpoint's body without its description."""
    return endpoint | {"properties": {key: one for key, one in endpoint["properties"].items() if key != "description"}}


def test_a_dry_run_starts_nothing_and_names_the_cost(azure, recipe, penala):
    """Everything is asked, nothing is made; the lines say what would be billed."""
    code, out, err = penala("run", "recipe.yaml", "--on", "azureml", "--dry-run")

    assert code == 0, err
    assert out == ""
    assert "cost: cluster gpu-cluster (made now): up to 1 x Standard_NC24ads_A100_v4" in err
    assert "cost: endpoint kopi-answers: 1 x Standard_NC24ads_A100_v4, every hour until it is deleted" in err
    assert changes(azure) == []


def changes(azure):
    """Return the requests that made, changed or removed something."""
    asking = ("/listSecrets", "oauth2")
    return [
        str(call)
        for call in azure.proxy.calls
        if call.method not in ("CONNECT", "GET", "HEAD") and not any(part in call.path for part in asking)
    ]


def test_nothing_is_billed_without_a_yes(azure, recipe, penala):
    """Where nobody can be asked and --yes is missing, the run is refused."""
    code, _, err = penala("run", "recipe.yaml", "--on", "azureml")

    assert code == 2
    assert "nobody is here to say yes; add --yes" in err
    assert changes(azure) == []


def test_a_no_ends_the_run(azure, recipe, penala, monkeypatch):
    """Who is asked may say no."""
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))

    code, _, err = penala("run", "recipe.yaml", "--on", "azureml")

    assert code == 1
    assert "Start it in kopi" in err
    assert changes(azure) == []


def test_ctrl_c_stops_watching_and_says_how_to_go_on(azure, recipe, on_azure):
    """The job goes on in Azure; the last lines name it and the commands that follow or stop it. It is then taken up."""
    azure.job_polls = 1_000_000
    azure.on_question = lambda: os.kill(os.getpid(), signal.SIGINT)

    code, result, err = on_azure()

    assert code == 1
    job = result["job"]
    assert result["status"] == "Running"
    assert result["error"] == "no longer watched"
    assert f"`penala run recipe.yaml --on azureml --job {job}` follows it" in err
    assert f"`penala jobs cancel {job} --on azureml` stops it" in err

    azure.job_polls, azure.on_question = 2, None
    code, result, err = on_azure("--job", job)

    assert code == 0, err
    assert (result["job"], result["reply"]) == (job, "from demo")
    assert len(azure.proxy.sent("PUT", "/jobs/")) == 1


def test_a_model_that_is_registered_is_not_registered_again(azure, recipe, on_azure):
    """Going on from a job whose model is there uses that version."""
    _, first, _ = on_azure("--no-deploy")

    code, second, err = on_azure("--job", first["job"])

    assert code == 0, err
    assert second["model"] == first["model"] == {"name": "kopi", "version": "1"}
    assert len(azure.proxy.sent("PUT", "/models/")) == 1


def test_the_second_run_uploads_nothing_and_registers_the_next_version(azure, recipe, on_azure):
    """What lies in Azure under its hash stays; the version counts on; the cluster and the endpoint are used again."""
    on_azure()
    blobs, computes = len(azure.proxy.sent("PUT", "blob")), len(azure.proxy.sent("PUT", "/computes/"))

    code, result, err = on_azure()

    assert code == 0, err
    assert result["model"]["version"] == "2"
    assert len(azure.proxy.sent("PUT", "blob")) == blobs
    assert len(azure.proxy.sent("PUT", "/computes/")) == computes
    assert "the endpoint kopi-answers is there; all of its traffic moves to demo" in err


def test_the_summary_names_the_next_commands(azure, recipe, penala):
    """Without --json, a person reads the figures and what to type next, with the cost in mind."""
    code, out, err = penala("run", "recipe.yaml", "--on", "azureml", "--yes")

    assert code == 0, err
    assert "reply     from demo" in out
    assert "penala endpoints delete kopi-answers --on azureml" in out


def test_options_for_azure_need_azure(recipe, penala):
    """--job without --on is a slip."""
    code, _, err = penala("run", "recipe.yaml", "--job", "x")

    assert code == 2
    assert "are for Azure ML; add --on azureml" in err
