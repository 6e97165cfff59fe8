"""Sessions on an NVIDIA GPU: fused fp16 graphs, buffers that stay on the device, few shapes, CUDA graphs, TensorRT."""
