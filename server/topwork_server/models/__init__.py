"""Encoders on disk: the catalog, their records, artifacts, fingerprints and ONNX graphs."""
