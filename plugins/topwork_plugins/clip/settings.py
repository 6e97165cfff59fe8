"""Settings of an exported text tower that the server reads beside its graph, and the cleaning of texts that they name."""

from __future__ import annotations

import html
import json
import string
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FILE = "texts.json"
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Side = Literal["left", "right"]
Cleaning = Literal["none", "whitespace", "lower", "canonicalize"]


@dataclass(frozen=True)
class TextSettings:
    """`inputs` are the graph's; `padding` is the id that fills a batch, or, where `fixed`, each text up to `max_tokens`, on the
    left or the right, as the model was trained. `cleaning` is open_clip's, before the tokenizer."""

    inputs: tuple[str, ...]
    padding: int
    max_tokens: int
    fixed: bool
    side: Side = "right"
    cleaning: Cleaning = "none"

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> TextSettings:
        record = json.loads((folder / FILE).read_text("utf-8"))
        return cls(inputs=tuple(record.pop("inputs")), **record)


def cleaned(text: str, cleaning: Cleaning) -> str:
    """Clean a text as open_clip's tokenizers do: mojibake mended and HTML entities resolved, white space joined, and so on."""
    if cleaning == "none":
        return text
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if cleaning == "canonicalize":
        text = text.replace("_", " ").translate(NO_PUNCTUATION)
    text = " ".join(text.split())
    return text if cleaning == "whitespace" else text.lower()
