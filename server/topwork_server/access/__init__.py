"""Decides what callers may do, and what the server may do for them."""
