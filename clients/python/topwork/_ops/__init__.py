"""The verbs of both clients, each once, as generators that do no input or output."""
