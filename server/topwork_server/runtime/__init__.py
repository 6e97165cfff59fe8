"""Sessions that run ONNX graphs, the devices they run on, and the export, parity and quantization of graphs."""
