"""What the model sees: chat template, loss mask, template lock. Needs no torch and no transformers."""
