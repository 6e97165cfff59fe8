"""Encoders on a GPU beside torch (docs/gpu.md)."""
