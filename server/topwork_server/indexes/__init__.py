"""Indexes that follow feature sets."""
