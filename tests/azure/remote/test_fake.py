"""What the fake itself promises: nothing passes it unseen."""

import json
import os
import ssl
import urllib.request

import pytest


def test_what_is_not_faked_gets_501_and_is_remembered(azure):
    """Any host, any path; the fixture would fail this test if it did not look at the list and empty it."""
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler())

    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open("https://telemetry.example.com/v2/track")

    assert refused.value.code == 501
    assert json.load(refused.value)["error"]["code"] == "NotFaked"
    assert azure.proxy.unknown == ["501 GET telemetry.example.com/v2/track"]
    azure.proxy.calls.clear()


def test_only_azures_own_hosts_are_asked(azure, recipe, on_azure):
    """No telemetry, no metadata service: a whole run talks to these hosts and no other."""
    code, _, err = on_azure()

    assert code == 0, err
    assert {call.host for call in azure.proxy.calls} == {
        "login.microsoftonline.com",
        "management.azure.com",
        "eastus.api.azureml.ms",
        "store.blob.core.windows.net",
        "kopi-answers.eastus.inference.ml.azure.com",
    }
