"""Heads that are ready: opened, fed and read."""
