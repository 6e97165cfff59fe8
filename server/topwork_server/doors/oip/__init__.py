"""The Open Inference Protocol (KServe v2), as Triton's clients speak it: over HTTP with binary tensors, and over gRPC.

A model is an encoder, whose outputs are its taps, or a head, whose outputs are what it predicts.
"""
