"""A recipe on the real Azure ML: what `--on azureml` does."""
