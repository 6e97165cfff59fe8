"""The heads of language models, as transformers has them: a trunk's tokens to scores of the vocabulary.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import GapRows, PretrainedHead
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from topwork_plugins.bert.layout import read_json


@dataclass(frozen=True)
class WordHead:
    """A kind of head over the vocabulary: its name, the classes of transformers (config.json, architectures) that may have one,
    the auto class that opens them, and the rows that it reads for a gap."""

    name: str
    classes: re.Pattern[str]
    opened_by: str
    gaps: GapRows
    description: str


MASKED = WordHead(
    "mlm",
    re.compile(r"For(MaskedLM|PreTraining)$"),
    "AutoModelForMaskedLM",
    GapRows.MASK,
    "the masked language model that its trunk was trained as; not evaluated here",
)
CAUSAL = WordHead(
    "lm",
    re.compile(r"(ForCausalLM|LMHeadModel)$"),
    "AutoModelForCausalLM",
    GapRows.LAST,
    "the language model that its trunk was trained as, from left to right; not evaluated here",
)
#: Where a tokenizer's files name its mask.
_MASK_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class WordScores(nn.Module):
    """A language model's head by itself. forward takes rows (n, dim) of its trunk's last layer, and gives scores (n, words)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """Run the whole model, whose trunk answers with the rows: what follows it differs from architecture to architecture."""
        base = self.model.base_model
        trunk = getattr(base, "decoder", base)  # OPT calls the part of its trunk that is all of it
        trunk.forward = lambda *given, **settings: BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows[None])
        try:
            scores: Tensor = self.model(inputs_embeds=rows[None], return_dict=True).logits[0]
        finally:
            del trunk.forward
        return scores


def kind_of(folder: Path) -> WordHead | None:
    """The head that a folder may hold, by its config.json; a masked model's only where its tokenizer has a mask."""
    named = [str(name) for name in read_json(folder / "config.json").get("architectures") or ()]
    for kind in (MASKED, CAUSAL):
        if any(kind.classes.search(name) for name in named):
            return kind if kind is CAUSAL or mask_of(folder) else None
    return None


def head_of(model: Any, kind: WordHead) -> PretrainedHead:
    """The head of a language model of transformers."""
    return PretrainedHead(kind.name, "tokens", module=WordScores(model), gaps=kind.gaps, description=kind.description)


def mask_of(folder: Path) -> str:
    """The mask of the tokenizer of a folder; "" where its files name none."""
    for name in _MASK_FILES:
        mask = read_json(folder / name, missing_ok=True).get("mask_token") or ""
        found = mask.get("content", "") if isinstance(mask, dict) else mask
        if found:
            return str(found)
    return ""
