"""The work of a training and of a probe, in a process of its own."""
