"""The heads of language models, as transformers has them: a trunk's tokens to scores of the vocabulary.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from topwork_server import GapRows, PretrainedHead
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.auto import modeling_auto

from topwork_plugins.bert.layout import Layout
from topwork_plugins.bert.loading import is_causal


@dataclass(frozen=True)
class WordHead:
    """A kind of head over the vocabulary: its name, the classes of transformers (config.json, architectures) that may have one,
    the auto class that opens them, the architectures that it opens, and the rows that it reads for a gap."""

    name: str
    classes: re.Pattern[str]
    opened_by: str
    opens: Collection[str]
    gaps: GapRows
    description: str


MASKED = WordHead(
    "mlm",
    re.compile(r"For(MaskedLM|PreTraining)$"),
    "AutoModelForMaskedLM",
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    GapRows.MASK,
    "the masked language model that its trunk was trained as; not evaluated here",
)
CAUSAL = WordHead(
    "lm",
    re.compile(r"(ForCausalLM|LMHeadModel)$"),
    "AutoModelForCausalLM",
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    GapRows.LAST,
    "the language model that its trunk was trained as, from left to right; not evaluated here",
)


class WordScores(nn.Module):
    """A language model's head by itself. forward takes rows (n, dim) of its trunk's last layer, and gives scores (n, words)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """Run the whole model, whose trunk answers with the rows: what follows it differs from architecture to architecture."""
        base = self.model.base_model
        trunk = getattr(base, "decoder", base)  # OPT calls the part of its trunk that is all of it
        trunk.forward = lambda *given, **settings: _answer(rows[None])
        try:
            scores: Tensor = self.model(inputs_embeds=rows[None], return_dict=True).logits[0]
        finally:
            del trunk.forward
        return scores


def _answer(rows: Tensor) -> Any:
    """Wrap (1, n, dim) rows as the output of a trunk that any head reads."""
    found = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows)
    found.global_attentions = None  # read by Longformer's
    return found


def kind_of(layout: Layout) -> WordHead | None:
    """The head that a folder may hold, by its config.json."""
    named = [str(name) for name in layout.config.get("architectures") or ()]
    for kind in (MASKED, CAUSAL):
        if layout.config["model_type"] in kind.opens and any(kind.classes.search(name) for name in named):
            return kind
    return None


def head_of(model: Any, kind: WordHead) -> PretrainedHead | None:
    """The head of a language model of transformers. None where its trunk is another than the architecture has without a head, or
    reads what comes after a gap that it should fill from what is before (XLNet's), or where its scores cannot be had of its
    rows alone."""
    usual = modeling_auto.MODEL_MAPPING_NAMES.get(model.config.model_type, "")
    if type(model.base_model).__name__ not in (usual if isinstance(usual, tuple) else (usual,)):
        return None
    if (kind is CAUSAL and not is_causal(model.base_model)) or not _scores_its_rows(model):
        return None
    return PretrainedHead(kind.name, "tokens", module=WordScores(model), gaps=kind.gaps, description=kind.description)


def _scores_its_rows(model: Any) -> bool:
    """Compare the head by itself with the whole model, on a few tokens."""
    ids = torch.tensor([[1, 2, 3, 1]])
    fed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        with torch.no_grad():
            expected = model(**fed).logits[0]
            found = WordScores(model)(model.base_model(**fed).last_hidden_state[0])
    except MemoryError:
        raise
    except Exception:  # an architecture fails with errors of any kind
        return False
    if expected.shape != found.shape:
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)  # NaN is refused where weights are checked
