"""The base model: the catalogue, where weights come from, and their import into one plain model folder."""
