"""The Open Inference Protocol (KServe v2), as Triton's clients speak it: over HTTP with binary tensors, and over gRPC.

A model is an encoder, its inputs are what it reads, and its outputs are its taps.
"""
