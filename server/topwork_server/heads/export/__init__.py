"""Trunk, pooling and head as one ONNX file."""
