"""8-bit graphs: calibration, quantization, and the layers that stay in fp32."""
