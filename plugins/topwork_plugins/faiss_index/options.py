"""Options that CreateIndex may set for each kind. None leaves the choice to `build_params.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topwork_server import option


@dataclass(frozen=True)
class HnswOptions:
    """A graph of neighbours (Malkov and Yashunin 2016)."""

    neighbours: int | None = option(None, "links of a row (M); memory grows by 8 bytes each", minimum=4, maximum=128)
    construction_effort: int | None = option(None, "candidates while building (efConstruction)", minimum=8, maximum=2000)


@dataclass(frozen=True)
class IvfOptions:
    """Lists around the centres of a k-means."""

    lists: int | None = option(None, "lists (nlist); at most rows / 39 are made", minimum=1, maximum=1 << 20)


@dataclass(frozen=True)
class PqOptions(IvfOptions):
    """Lists of product-quantised codes (Jegou et al. 2011)."""

    segments: int | None = option(None, "codes of a row (M); divides the dim", minimum=1, maximum=4096)
    bits: Literal[4, 8] = option(8, "bits of a code")
    refine: Literal["auto", "none", "sq4", "sq6", "sq8", "exact"] = option(
        "auto", "what is kept beside the codes to order the candidates by"
    )
