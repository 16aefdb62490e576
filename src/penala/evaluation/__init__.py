"""How good a model is: loss, perplexity and replies, before and after tuning."""
