"""Benchmarks: programs, run as `python -m benchmarks.NAME`."""

import os

# gRPC would say so of each process that a benchmark starts; they become another program at once and never touch gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
