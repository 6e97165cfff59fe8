"""Programs that run in a peer's environment: the server that a user of that peer would write for our graph, in as few lines as
its documentation needs. They import numpy, the peer, and what `handler` needs; nothing of Topwork."""
