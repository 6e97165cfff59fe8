"""Throughput and latency side by side: the in-process ceiling, Topwork, and its peers, in one run (docs/benchmarks.md)."""
