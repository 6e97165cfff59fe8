"""Serving of heads: open them, run them and decode their outputs."""
