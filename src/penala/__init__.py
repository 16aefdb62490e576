"""Conversations in, a tuned chat model behind a keyed endpoint out."""

__version__ = "0.1.0"
