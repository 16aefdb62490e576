"""Who writes replies: token ids in, token ids out. Evaluation and the endpoint use the same engine."""
