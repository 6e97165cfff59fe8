"""Protobuf messages <-> the dataclasses of the server, and nothing else."""
