"""The local control plane: a folder on this machine that plays the part of an Azure ML workspace."""
