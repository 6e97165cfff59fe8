"""Does transfer work? Frozen features and a linear head against plain inputs and against the same trunk with random weights, on
real data. `python -m benchmarks.transfer` runs it all; docs/transfer.md says what came out."""
