"""What is learnt from: labels, rows and raw items of a pinned version of a set."""
