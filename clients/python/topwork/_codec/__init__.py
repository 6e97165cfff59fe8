"""Protobuf messages <-> numpy arrays and the dataclasses of this package."""
