"""A head and its trunk as one ONNX file with a model card."""
