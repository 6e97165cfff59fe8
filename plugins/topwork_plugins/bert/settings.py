"""Settings of an exported BERT that the server reads beside its graph and tokenizer: a small JSON file in the artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "bert.json"


@dataclass(frozen=True)
class Settings:
    """`inputs` are the graph's, in order; `padding` is the id that fills a batch; `max_tokens` counts special tokens too.

    `prompts` are those that the model names; `default_prompt` is the name of the one that goes before every text, if any.
    `mask` is the tokenizer's own, if it has one.
    """

    inputs: tuple[str, ...]
    padding: int
    max_tokens: int
    prompts: Mapping[str, str]
    default_prompt: str
    mask: str = ""

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Settings:
        record = json.loads((folder / FILE).read_text("utf-8"))
        return cls(inputs=tuple(record.pop("inputs")), **record)
