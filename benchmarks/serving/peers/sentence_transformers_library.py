"""sentence-transformers in process: its own batching, which sorts by length, and one text at a time."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.peers import Library, Subject, environments
from benchmarks.serving.peers.weights import sentence_transformer


class SentenceTransformers(Library):
    name = "sentence-transformers"
    environment = "sentence-transformers"

    def missing(self) -> str | None:
        return environments.missing(self.environment)

    def command(self, subject: Subject, items: Path, seconds: float) -> list[str]:
        return [
            str(environments.python_of(self.environment)), "-m", "benchmarks.serving.peers.servers.sentences",
            str(sentence_transformer(subject)), str(items), str(seconds), str(subject.threads),
        ]  # fmt: skip


PEERS = (SentenceTransformers,)
