"""A fake Azure for the real azure-ai-ml: sign-in, ARM, registry, run history, blobs and scoring, on loopback.

It proves what we send and that the SDK takes plausible answers. It does not prove what Azure accepts.
"""

from fake_azure.azure import ARM, GROUP, SUBSCRIPTION, TENANT, WORKSPACE, FakeAzure
from fake_azure.proxy import Answer, Call, refusal

__all__ = ["ARM", "GROUP", "SUBSCRIPTION", "TENANT", "WORKSPACE", "Answer", "Call", "FakeAzure", "refusal"]
