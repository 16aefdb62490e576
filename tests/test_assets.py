import pytest

from penala.assets import AssetName, is_asset, next_version, parse, require_name
from penala.errors import UsageError

ARM = "/subscriptions/0f-1/resourceGroups/rg/providers/Microsoft.MachineLearningServices"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("kopi", AssetName("kopi")),
        ("kopi:7", AssetName("kopi", "7")),
        ("kopi@latest", AssetName("kopi")),
        ("azureml:kopi:7", AssetName("kopi", "7")),
        ("azureml:kopi@latest", AssetName("kopi")),
        ("azureml://registries/azureml/models/Phi-4/versions/8", AssetName("Phi-4", "8", "azureml")),
        ("azureml://registries/azureml/models/Phi-4/labels/latest", AssetName("Phi-4", "latest", "azureml")),
        ("azureml://models/kopi/versions/1", AssetName("kopi", "1")),
        (f"{ARM}/workspaces/w/models/kopi/versions/1", AssetName("kopi", "1")),
        (f"azureml:{ARM}/workspaces/w/models/kopi/versions/1", AssetName("kopi", "1")),
        (f"azureml:{ARM}/registries/r/models/kopi/versions/1", AssetName("kopi", "1", "r")),
        ("azureml://subscriptions/s/resourcegroups/g/workspaces/w/models/k/versions/1", AssetName("k", "1")),
        ("azureml://locations/sg/workspaces/4f2/models/k/versions/1", AssetName("k", "1")),
    ],
)
def test_every_way_to_name_a_model_is_read(text, found):
    """What az, the SDK and the studio write for one asset means that asset."""
    assert parse(text, "models") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("azureml:kopi@newest", "has no label 'newest'; the one label is latest"),
        ("azureml://registries/azureml/models/x", "names none of the models; write NAME:VERSION"),
        ("azureml://registries/azureml/components/x/versions/1", "names one of the components, not of the models"),
        ("a:b:c", "names none of the models"),
        ("../folder", "names none of the models"),
    ],
)
def test_what_names_no_model_is_refused(text, message):
    """With the forms that would."""
    with pytest.raises(UsageError, match=message):
        parse(text, "models")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("azureml:kopi:7", True),
        ("azureml://registries/azureml/models/Phi-4/versions/8", True),
        (f"{ARM}/workspaces/w/data/kopi/versions/1", True),
        ("kopi:7", False),
        ("data/train.jsonl", False),
        ("/models/kopi/versions/1", False),
        ("azureml://jobs/j/outputs/o", False),
        ("azureml://datastores/workspaceblobstore/paths/models/kopi/versions/1", False),
        ("azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/data/k/versions/1", False),
    ],
)
def test_assets_are_told_from_paths(text, expected):
    """A file, a job's output and a path in a datastore are no assets, whatever their folders are called."""
    assert is_asset(text) is expected


@pytest.mark.parametrize("name", ["", "latest", "a:b", "a@b", "a/b", "-a", "a b", "x" * 256])
def test_a_name_that_no_reference_could_hold_is_refused(name):
    """NAME:VERSION must mean one thing."""
    with pytest.raises(UsageError, match="is no name of an asset"):
        require_name(name)
    with pytest.raises(UsageError, match="is no version of an asset"):
        require_name("kopi", name)


def test_versions_count_on_after_the_highest_number():
    """Words are versions too, and do not count."""
    assert next_version([]) == "1"
    assert next_version(["3", "final", "20250101"]) == "20250102"
