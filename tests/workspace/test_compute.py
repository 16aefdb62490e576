import pytest

from penala.basemodel.catalogue import entry_from, get
from penala.errors import NotFound, UsageError
from penala.workspace import compute
from penala.workspace.compute import Compute, Settings
from penala.workspace.sizes import allow_list, check, find_size, sizes

PHI = get("Phi-3-mini-4k-instruct")


def model(**fields):
    """A base model with these tags or this system_metadata."""
    return entry_from({"name": "m", "sources": [{"kind": "hub", "repo": "me/m"}], **fields})


@pytest.mark.parametrize("name", ["Standard_NC6s_v3", "STANDARD_NC6S_V3", "standard_nc6s_v3", "NC6s_v3", " nc6s_v3 "])
def test_sizes_are_found_in_any_letter_case(name):
    """Azure's pages, its service and its users write them in as many ways."""
    assert find_size(name).name == "Standard_NC6s_v3"


def test_an_unknown_size_is_refused_with_the_near_one():
    """And with the command that lists all."""
    with pytest.raises(UsageError, match="did you mean 'Standard_NC6s_v3'\\? `penala compute sizes` lists all"):
        find_size("Standard_NC6s_v4")


def test_the_gpus_of_every_size_are_whole_numbers_with_a_model():
    """A size without GPUs names no model."""
    for size in sizes().values():
        assert isinstance(size.gpus, int)
        assert (size.gpus > 0) == (size.gpu is not None)
        assert size.vcpus > 0 < size.memory_gb


def test_the_tutorials_sizes_have_their_gpus():
    """8 V100 in ND40rs_v2, one A100 in NC24ads, one T4 in NC4as."""
    names = ["Standard_ND40rs_v2", "Standard_NC24ads_A100_v4", "STANDARD_NC4AS_T4_V3", "Standard_DS3_v2"]

    assert [find_size(name).gpus for name in names] == [8, 1, 1, 0]


def test_an_allow_list_is_read_from_tags_and_from_system_metadata():
    """As the text of a Python list, as a list, and as names with commas; a tag goes first; nothing said is None."""
    supported = {"supportedComputes": {"finetuneComputes": ["Standard_ND40rs_v2"]}}
    as_text = {"supportedComputes": {"finetuneComputes": "['Standard_ND40rs_v2']"}}
    commas = {"finetune_compute_allow_list": "Standard_NC6s_v3, Standard_ND40rs_v2"}

    assert allow_list(PHI, "finetune")[0] == "Standard_NC24ads_A100_v4"
    assert allow_list(model(system_metadata=supported), "finetune") == ["Standard_ND40rs_v2"]
    assert allow_list(model(system_metadata=as_text), "finetune") == ["Standard_ND40rs_v2"]
    both = model(tags=commas, system_metadata=supported)
    assert allow_list(both, "finetune") == ["Standard_NC6s_v3", "Standard_ND40rs_v2"]
    assert allow_list(both, "evaluation") is None
    with pytest.raises(UsageError, match="m:1: finetune_compute_allow_list: is no list of sizes"):
        allow_list(model(tags={"finetune_compute_allow_list": "{'a': 1}"}), "finetune")


@pytest.mark.parametrize(
    ("size", "purpose", "message"),
    [
        ("standard_nc24ads_a100_v4", "finetune", None),
        ("Standard_ND40rs_v2", "finetune", "fine-tuned on Standard_ND40rs_v2; its publisher allows Standard_NC24"),
        ("Standard_ND40rs_v2", "inference", None),
        ("Standard_NC6s_v3", "inference", "Standard_NC6s_v3 was retired on 2025-09-30"),
        ("Standard_DS3_v2", "inference", "cannot be deployed on Standard_DS3_v2"),
        ("Standard_DS3_v2", "evaluation", None),
    ],
)  # fmt: skip
def test_a_size_is_checked_against_what_the_publisher_allows(size, purpose, message):
    """In any letter case; ND40rs_v2, the tutorial's default, left Phi-3's list in 2024."""
    found = check(size, PHI, purpose)

    assert (found is None) if message is None else message in found


def test_an_empty_list_allows_nothing():
    """Some models cannot be tuned at all."""
    assert check("ND40rs_v2", model(tags={"finetune_compute_allow_list": []}), "finetune") == (
        "m:1 cannot be fine-tuned on any size"
    )


def test_this_machine_is_always_there(workspace):
    """With a slot for each GPU, or else for each core."""
    local = workspace.computes.get("local")

    assert local == workspace.computes.get("azureml:local") == workspace.computes.list()[0]
    assert (local.size, local.nodes) == (None, 1)
    assert local.slots == (local.gpus or compute.this_machine()["cores"])
    assert "this machine: " in local.describe()


def test_a_created_compute_stands_in_for_its_size(workspace):
    """It counts as the size does, runs here, and is found in any letter case."""
    made = workspace.computes.create(
        "gpu-cluster", "standard_nd40rs_v2", Settings(max_instances=1, tier="low_priority")
    )

    assert made == workspace.computes.get("GPU-Cluster") == workspace.computes.get("azureml:gpu-cluster")
    assert (made.size, made.gpus, made.nodes, made.slots, made.state) == ("Standard_ND40rs_v2", 8, 1, 1, "Succeeded")
    assert made.describe() == (
        "stands in for Standard_ND40rs_v2 (8 x V100 32 GB, 40 vCPUs, 672 GiB); runs on this machine"
    )
    assert workspace.computes.get("another") is None


def test_slots_are_never_more_than_the_machine_has(workspace, monkeypatch):
    """A cluster of ten nodes runs as many steps at once as this machine can."""
    monkeypatch.setattr(compute, "local", lambda: Compute("local", None, 0, 2))

    assert workspace.computes.create("wide", "DS3_v2", Settings(max_instances=10)).slots == 2
    assert workspace.computes.create("narrow", "DS3_v2", Settings(max_instances=1)).slots == 1


def test_creating_again_changes_the_settings_but_not_the_size(workspace):
    """As begin_create_or_update does; the name keeps the letters that it was made with."""
    workspace.computes.create("Cluster", "DS3_v2")
    again = workspace.computes.create("cluster", "ds3_v2", Settings(idle_seconds=5))

    assert (again.name, again.settings.idle_seconds) == ("Cluster", 5)
    assert len(workspace.computes.list()) == 2
    with pytest.raises(UsageError, match="Cluster: has the size Standard_DS3_v2 already; choose another name"):
        workspace.computes.create("cluster", "DS4_v2")


@pytest.mark.parametrize("name", ["a", "1abc", "a_b", "-ab", "ab-", "x" * 33, "Local"])
def test_a_name_that_cannot_be_a_computes_is_refused(workspace, name):
    """Azure's rule for names; local is taken."""
    with pytest.raises(UsageError):
        workspace.computes.create(name, "DS3_v2")


@pytest.mark.parametrize(
    "settings",
    [{"min_instances": 5}, {"min_instances": -1}, {"max_instances": 0}, {"idle_seconds": -1}, {"tier": "spot"}],
)
def test_settings_that_make_no_cluster_are_refused(settings):
    """Whoever makes them."""
    with pytest.raises(UsageError):
        Settings(**settings)


def test_a_compute_can_be_deleted_and_local_cannot(workspace):
    """What is not there is NotFound, with the near name."""
    workspace.computes.create("gpu-cluster", "DS3_v2")

    with pytest.raises(NotFound, match="no compute is called 'gpu-clustr'; did you mean 'gpu-cluster'"):
        workspace.computes.delete("gpu-clustr")
    workspace.computes.delete("GPU-cluster")
    assert workspace.computes.get("gpu-cluster") is None
    with pytest.raises(UsageError, match="local is this machine"):
        workspace.computes.delete("local")
