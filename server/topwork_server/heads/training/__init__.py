"""Training of heads: labels and rows of a pinned version become a head, in a child process."""
