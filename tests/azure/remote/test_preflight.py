"""What is refused, and what is said, before anything is billed."""

import json
import re
from datetime import date

import pytest
from fake_azure import contents

AZURE = {"compute": {"name": "gpu-cluster", "size": contents.A100}, "instance_type": contents.A100}


@pytest.fixture
def checked(azure, recipe, penala):
    """Do a dry run of the recipe with some changes; return its exit code and what stderr got. Nothing may be made."""

    def run(*more, **changes):
        recipe(**changes)
        code, _, err = penala("run", "recipe.yaml", "--on", "azureml", "--dry-run", *more)
        assert not azure.proxy.sent("PUT", ".")
        return code, err

    return run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"azureml": None}, r"azureml.compute: is missing; for example"),
        ({"azureml": {"compute": AZURE["compute"]}}, r"azureml.instance_type: is missing; .*--no-deploy"),
        (
            {"azureml": AZURE | {"compute": {"name": "c1", "size": "Standard_NC24rs_v3"}}},
            r"azureml.compute.size: Standard_NC24rs_v3 was retired on 2025-09-30; .*allow_retired",
        ),
        (
            {"azureml": AZURE | {"compute": {"name": "c1", "size": contents.CPU}}},
            r"Standard_E4s_v3 has no GPU, and Azure's component needs one; choose a size with GPUs, or `--components",
        ),
        ({"azureml": AZURE | {"instance_type": "Standard_NC6s_v3"}}, r"azureml.instance_type: .*was retired"),
        (
            {"conversations": {"train": "data/train.jsonl", "train_on": "last_turn"}},
            r"conversations.train_on: is more than Azure's components can do; leave it out, or `--components penala`",
        ),
        ({"conversations": {"train": "data/train.jsonl", "validation": "none"}}, r"conversations.validation: is more"),
        (
            {"conversations": {"train": "azureml:chats:2", "validation": "10%"}},
            r"conversations.validation: is more than Azure's components can do",
        ),
        ({"evaluation": {"replies": {"limit": 3}}}, r"evaluation: is more than Azure's components can do"),
        (
            {"endpoint": {"name": "kopi", "request_settings": {"request_timeout_ms": 600_000}}},
            r"request_timeout_ms: is longer than a managed endpoint waits; Azure allows 180000 at most",
        ),
        ({"conversations": {"train": "data/none.jsonl"}}, r"none.jsonl: no such file"),
    ],
)
def test_what_needs_no_network_is_refused_without_one(azure, checked, changes, message):
    """A recipe that cannot run there costs not even a sign-in."""
    code, err = checked(**changes)

    assert code == 2
    assert re.search(message, err), err
    assert azure.proxy.calls == []


def test_conversations_that_fail_the_check_are_findings(azure, checked, place):
    """Bad rows are told before a sign-in, with exit code 1 as everywhere."""
    (place / "data" / "train.jsonl").write_text('{"messages": []}\n' * 12, encoding="utf-8")

    code, err = checked()

    assert code == 1
    assert "train.jsonl:1" in err
    assert azure.proxy.calls == []


def tags(**more):
    return contents.allowed(contents.A100) | {"model_specific_defaults": str(contents.DEFAULTS)} | more


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"tags": tags() | contents.allowed(contents.V100)},
            "not among the sizes for fine-tuning of Phi-4:7: Stand",
        ),
        (
            {"systemMetadata": {"supportedComputes": {"finetuneComputes": [contents.V100]}}},
            "is not among the sizes for fine-tuning of Phi-4:7: Standard_ND40rs_v2",
        ),
        (
            {"systemMetadata": {"SKU": {"finetuneMinSkuSpec": "40|2|440|128"}}},
            "is smaller than Phi-4:7 needs for fine-tuning: 40 vCPUs, 2 GPUs, 440 GiB",
        ),
        ({"tags": tags(FinetuneRetirementDate="2025-08-30")}, "Phi-4:7 was retired for fine-tuning on 2025-08-30"),
        (
            {"systemMetadata": {"deprecation": {"finetuneRetirementDate": date.today().isoformat()}}},
            "was retired for fine-tuning",
        ),
        ({"tags": tags(InferenceRetirementDate="2025-08-30")}, "Phi-4:7 was retired for deployment on 2025-08-30"),
    ],
)
def test_what_the_registry_says_of_the_model_counts(azure, checked, model, message):
    """Tags and system_metadata alike: a retired model, a size that is not allowed or too small is refused."""
    azure.models["Phi-4"]["7"] = contents.registry_model(**{"tags": {}} | model)

    code, err = checked()

    assert code == 2
    assert message in err


def test_a_retired_model_may_be_tried_when_the_recipe_says_so(azure, checked):
    """allow_retired turns the refusal into a warning; an archived model is one anyway."""
    azure.models["Phi-4"]["7"] = contents.registry_model(tags(FinetuneRetirementDate="2025-08-30"), isArchived=True)

    code, err = checked(azureml=AZURE | {"allow_retired": True})

    assert code == 0, err
    assert "warning: Phi-4:7 was retired for fine-tuning on 2025-08-30" in err
    assert "warning: Phi-4:7 is archived" in err


def test_defaults_that_the_component_does_not_declare_are_named_and_skipped(azure, checked):
    """The traps of 2025: learning_rate_min and _max are no inputs, yet they still bound the learning rate."""
    defaults = contents.DEFAULTS | {"learning_rate_min": "5e-7", "learning_rate_max": "5e-5"}
    azure.models["Phi-4"]["7"] = contents.registry_model(tags(model_specific_defaults=str(defaults)))

    code, err = checked(finetuning={"learning_rate": 1e-3})

    assert code == 0, err
    assert "the model's default learning_rate_min = 5e-07 is no input of the component: skipped" in err
    assert "warning: learning_rate 0.001 is outside the model publisher's 5e-07 to 5e-05; yours runs" in err


def test_a_value_that_the_registrys_component_lost_is_refused(azure, checked):
    """The component there may declare less than ours; a user's value is never dropped."""
    del azure.components["chat_completion_pipeline"]["0.0.82"]["componentSpec"]["inputs"]["lora_dropout"]

    code, err = checked(finetuning={"lora_dropout": 0.1})

    assert code == 2
    assert "finetuning.lora_dropout: is no input of Azure's component" in err


def test_all_reasons_come_at_once(azure, checked):
    """A wrong size and a wrong machine need one run, not two."""
    azure.models["Phi-4"]["7"] = contents.registry_model(contents.allowed("Standard_ND96asr_v4"))

    code, err = checked()

    assert code == 2
    assert "2 problems" in err
    assert "for fine-tuning" in err
    assert "for deployment" in err


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"vmSize": contents.V100}, "gpu-cluster is there, with the size Standard_ND40rs_v2; write that size"),
        ({"vmSize": contents.A100, "state": "Failed"}, "gpu-cluster is there, and Azure failed to make it"),
    ],
)
def test_a_cluster_that_does_not_fit_is_refused(azure, checked, there, message):
    """The name is taken by a cluster of another size, or by one that never came up."""
    azure.keep_compute("gpu-cluster", there["vmSize"], there.get("state", "Succeeded"))

    code, err = checked()

    assert code == 2
    assert message in err


def test_a_size_that_the_region_lacks_is_refused(azure, checked):
    """Azure's own list decides; the near name is told."""
    azure.sizes = [size for size in contents.SIZES if size["name"] != contents.A100]

    code, err = checked()

    assert code == 2
    assert f"{contents.A100} is not offered in the workspace's region" in err


def test_a_quota_that_is_too_small_is_told(azure, checked):
    """Only a hint: another family, or a grown quota, is Azure's to know."""
    azure.usages = [contents.USAGES[0] | {"currentValue": 40}]

    code, err = checked()

    assert code == 0, err
    assert "warning: 24 vCPUs are needed, and 40 of 48 vCPUs of standardNCADSA100v4Family are in use" in err


def test_a_version_that_is_there_is_refused(azure, checked):
    """A second model of the same name and version would fail after hours of training."""
    azure.keep_model("kopi", "3", "another-job")

    code, err = checked(model={"name": "kopi", "version": "3"})

    assert code == 2
    assert "model.version: kopi:3 is there already" in err


def test_an_unknown_base_model_is_refused(azure, checked):
    """The name is said with where it was looked for."""
    code, err = checked(base_model="Phi-44")

    assert code == 1
    assert "the registry azureml has no base model Phi-44@latest" in err


def test_a_model_of_penalas_catalogue_needs_penalas_components(azure, checked):
    """Azure has no SmolLM2; our import step fetches it there."""
    code, err = checked(base_model="SmolLM2-135M-Instruct")

    assert code == 1
    assert "`--components penala` fetches SmolLM2-135M-Instruct itself" in err

    code, err = checked("--components", "penala", base_model="SmolLM2-135M-Instruct")

    assert code == 0, err
    assert "the import step fetches it" in err


def test_hours_are_estimated_where_size_and_model_are_known(azure, checked):
    """A span, from the model's parameters, the bytes of train, the epochs and the GPU's speed."""
    azure.models = {"Llama-2-7b-chat": {"1": contents.registry_model(contents.allowed(contents.A100))}}

    code, err = checked(base_model="Llama-2-7b-chat", finetuning={"num_train_epochs": 100_000})

    assert code == 0, err
    # 4 x 7e9 operations x 1e5 epochs x 1,804 bytes / 4, at 50 % and at 10 % of 312 TFLOP/s
    assert "training 2.2 to 11.2 hours, besides starting nodes" in err


def test_the_target_may_stand_in_the_recipe_or_in_a_file(azure, checked, place):
    """The three names in the recipe win over config.json; azureml=FILE wins over both; nothing at all is refused."""
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").unlink()

    code, err = checked()
    assert code == 2
    assert "nothing says which Azure ML workspace; download config.json" in err

    code, err = checked(azureml=AZURE | config)
    assert code == 0, err

    scope = {
        "Scope": f"/subscriptions/{config['subscription_id']}/resourceGroups/{config['resource_group']}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{config['workspace_name']}"
    }
    (place / "kopi.json").write_text(json.dumps(scope), encoding="utf-8")
    recipe_target = "azureml=kopi.json"
    code, err = checked("--on", recipe_target)
    assert code == 0, err
    assert "signing in to kopi (resource group tuners" in err
