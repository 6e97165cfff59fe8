"""Pretraining: encoders that are learned from texts without labels, by jobs."""
