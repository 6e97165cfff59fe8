"""Options of language model pretraining, apart from what uses them, since it imports torch. Each default has its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topwork_server import option


@dataclass(frozen=True)
class LanguageModelOptions:
    """Options of both kinds. Rates and schedule are BERT's (Devlin et al. 2019, A.2), as in continued pretraining (Gururangan et
    al. 2020)."""

    epochs: int = option(3, "passes over the texts, at most", minimum=1, maximum=10_000)
    learning_rate: float = option(5e-5, "the highest, after the warm-up; it then falls to 0", minimum=0.0, maximum=1.0)
    warmup: float = option(0.06, "part of the steps over which the rate rises from 0", minimum=0.0, maximum=1.0)
    batch: int = option(32, "pieces of text a step", minimum=1, maximum=4096)
    tokens: int = option(128, "tokens of a piece, at most; longer texts are cut into several", minimum=8, maximum=65_536)
    weight_decay: float = option(0.01, "AdamW's, of matrices alone", minimum=0.0, maximum=10.0)
    clip: float = option(1.0, "longest gradient of a step; 0: any", minimum=0.0, maximum=1e6)
    held_out: float = option(0.05, "part of the texts that are not learned from, and judge", minimum=0.001, maximum=0.5)
    evaluate_every: int = option(0, "steps between two evaluations; 0: each epoch", minimum=0, maximum=10**9)
    patience: int = option(
        3, "evaluations without a better held-out loss after which it stops; 0: never early", minimum=0, maximum=10_000
    )
    max_seconds: float = option(
        0.0,
        "stop after so many seconds of learning; evaluations, each a 20th of it at most, come on top; 0: no limit",
        minimum=0.0,
        maximum=1e7,
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: CUDA where there is one")


@dataclass(frozen=True)
class MaskedOptions(LanguageModelOptions):
    """Options of a masked language model."""

    masked: float = option(0.15, "part of the words that are to be predicted", minimum=0.01, maximum=0.9)
    whole_words: bool = option(True, "choose words with all of their tokens; false: tokens by themselves")
    head_rate: float = option(1e-3, "the learning rate of a head that the encoder lacks and gets", minimum=0.0, maximum=1.0)
    head_first: float = option(
        0.1,
        "part of the steps in which such a head learns alone, and the trunk stays",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True)
class CausalOptions(LanguageModelOptions):
    """Options of a language model that predicts the next token."""
