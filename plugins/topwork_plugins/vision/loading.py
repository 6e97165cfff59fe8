"""Opens a picture model of transformers out of a local folder. Export process only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from topwork_server import InvalidInput
from torch import nn

from topwork_plugins.pretrained_models import from_pretrained, refuse_gaps, without_place
from topwork_plugins.vision.layout import Layout

POOLER = r"(^|\.)pooler\."
#: Weights that no feature depends on, or not where they are missing: folders may lack them.
SPARE = rf"{POOLER}|mask_token"


@dataclass(frozen=True)
class Loaded:
    """`trunk` takes pixel_values. `model` is the same with its classifier where it has one, whose weights `classifier` names.

    `unused` are the weights of the folder that the trunk has no place for.
    """

    trunk: Any
    model: Any
    classifier: tuple[str, ...]
    unused: tuple[str, ...]


def load(layout: Layout) -> Loaded:
    """Load the fp32 model of a folder. InvalidInput where a weight is missing or does not fit; nothing is unpickled."""
    import transformers

    known = layout.classifier is not None and hasattr(transformers, layout.classifier)
    model, report = from_pretrained(layout.folder, str(layout.classifier) if known else "AutoModel")
    refuse_gaps(layout.folder, report, SPARE)
    trunk = model.base_model if known else model
    if any(re.search(POOLER, str(name)) for name in report["missing_keys"]):
        trunk.pooler = None  # random numbers
    if trunk.main_input_name != "pixel_values":
        raise InvalidInput(
            f"{layout.folder.name} is a {layout.kind!r} model (config.json), which does not read pictures alone",
            remedy="name a picture model, or leave --family vision away",
        )
    unused = sorted(without_place(layout.folder, model, report))
    ours = {id(p) for p in trunk.parameters()}
    classifier = tuple(name for name, p in model.named_parameters() if id(p) not in ours)
    return Loaded(trunk, model.eval(), classifier, tuple(unused))


def linear_of(loaded: Loaded) -> nn.Linear | None:
    """The one linear layer of the classifier; None where it is anything else."""
    inside = set(loaded.trunk.modules())
    parts = [
        part for part in loaded.model.modules() if part not in inside and next(part.parameters(recurse=False), None) is not None
    ]
    return parts[0] if len(parts) == 1 and isinstance(parts[0], nn.Linear) else None
