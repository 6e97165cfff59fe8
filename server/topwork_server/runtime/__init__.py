"""Sessions: a graph becomes something that runs, on a device that was measured. The only importers of onnxruntime."""
