"""Encoders on one GPU beside torch in fp16, in one run (docs/gpu.md)."""
