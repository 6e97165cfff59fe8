"""The head of a cross-encoder, as transformers has it: what a trunk gives of a pair of texts to its scores.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import Tensor, nn

from topwork_plugins.bert.loading import PROBED, Loaded, measured
from topwork_plugins.bert.traceable_attention import make_traceable
from topwork_plugins.pretrained_models import from_pretrained, refuse_gaps, without_place

KIND = "AutoModelForSequenceClassification"


class PairHead(nn.Module):
    """A ...ForSequenceClassification without its trunk. forward takes what the trunk gave, and what it was given, by name, and
    gives scores (batch, labels), before any activation."""

    def __init__(self, model: Any) -> None:
        """Take the trunk out of the model."""
        super().__init__()
        names = model.config.id2label
        self.labels = tuple(str(names[place]) for place in sorted(names))
        self.model = model
        setattr(model, model.base_model_prefix, _Given())

    def forward(self, found: Any, given: Mapping[str, Tensor]) -> Tensor:
        """Run the whole model, whose trunk answers with what it found: what follows differs from architecture to architecture."""
        trunk = getattr(self.model, self.model.base_model_prefix)
        trunk.found = found
        try:
            scores: Tensor = self.model(**given, return_dict=True).logits
        finally:
            trunk.found = None
        return scores


class _Given(nn.Module):
    """Stands where a trunk stood, and answers with what that has found."""

    found: Any = None

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.found


def load_cross_encoder(folder: Path) -> tuple[Loaded, PairHead]:
    """Load the fp32 trunk of a cross-encoder and its head. InvalidInput where a weight of either is missing, and where the scores
    cannot be had of what the trunk gives."""
    model, report = from_pretrained(folder, KIND)
    refuse_gaps(folder, report)
    unused, trunk = without_place(folder, model, report), model.base_model
    ids = torch.arange(PROBED)[None] % 3 + 1
    fed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model.eval()
    try:
        with torch.no_grad():
            expected = model(**fed).logits
            make_traceable(trunk)
            head = PairHead(model)
            found = head(trunk(**fed, return_dict=True), fed)
    except MemoryError:
        raise
    except Exception as error:  # an architecture fails with errors of any kind
        raise _refusal(folder, model, ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])) from error
    if expected.shape != found.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise _refusal(folder, model, "they are not those of the whole model")  # NaN is refused where weights are checked
    return measured(folder, trunk, unused), head


def _refusal(folder: Path, model: Any, why: str) -> InvalidInput:
    return InvalidInput(
        f"the scores of the cross-encoder {folder.name} ({type(model).__name__}) cannot be had of what its trunk gives: {why}",
        remedy="pull it with --set trunk_only=true to have the features of its trunk without its head",
    )
