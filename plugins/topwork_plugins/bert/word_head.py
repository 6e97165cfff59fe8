"""The head of a masked language model, as transformers has it: a trunk's tokens to scores of the vocabulary.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from topwork_server import GapRows, PretrainedHead
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from topwork_plugins.bert.layout import read_json

#: Classes of transformers (config.json, architectures) that may have such a head.
_MASKED = re.compile(r"For(MaskedLM|PreTraining)$")
#: Where a tokenizer's files name its mask.
_MASK_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class WordScores(nn.Module):
    """A language model's head by itself. forward takes rows (n, dim) of its trunk's last layer, and gives scores (n, words)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """Run the whole model, whose trunk answers with the rows: what follows it differs from architecture to architecture."""
        trunk = getattr(self.model, self.model.base_model_prefix)
        trunk.forward = lambda *given, **settings: BaseModelOutput(last_hidden_state=rows[None])
        try:
            scores: Tensor = self.model(inputs_embeds=rows[None], return_dict=True).logits[0]
        finally:
            del trunk.forward
        return scores


def is_masked_model(folder: Path) -> bool:
    """Tell whether a folder may hold a masked language model, by its config.json."""
    named = read_json(folder / "config.json").get("architectures") or ()
    return any(_MASKED.search(str(name)) for name in named)


def masked_head(model: Any) -> PretrainedHead:
    """The head of a masked language model of transformers."""
    said = "the masked language model that its trunk was trained as; not evaluated here"
    return PretrainedHead("mlm", "tokens", module=WordScores(model), gaps=GapRows.MASK, description=said)


def mask_of(folder: Path) -> str:
    """The mask of the tokenizer of a folder; "" where its files name none."""
    for name in _MASK_FILES:
        mask = read_json(folder / name, missing_ok=True).get("mask_token") or ""
        found = mask.get("content", "") if isinstance(mask, dict) else mask
        if found:
            return str(found)
    return ""
