"""The base of both ways to learn a language model: makes batches of pieces of text, and the loss of a batch. Imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from topwork_server import Array, InvalidInput
from torch import Tensor, nn

from topwork_plugins.bert.loading import position_limit
from topwork_plugins.bert.tokens import stacked
from topwork_plugins.language_model.model_folder import ModelFolder
from topwork_plugins.language_model.options import LanguageModelOptions
from topwork_plugins.language_model.tokenized import Pieces, TextTokenizer

#: The label of a token that is not predicted.
IGNORED = -100


@dataclass(frozen=True)
class Outcome:
    """The sum of the loss over predicted tokens, how many of them were the likeliest, and how many there are."""

    loss: Tensor
    right: int
    count: int


class Objective(ABC):
    """One way to learn. `auto_class` is transformers' class of the model; `new_head` are the names of parameters that the folder
    lacks, which start at random."""

    auto_class: str
    what: str

    def __init__(
        self, folder: ModelFolder, model: Any, tokenizer: Any, new_head: list[str], options: LanguageModelOptions
    ) -> None:
        self.folder, self.model, self.new_head, self.options = folder, model, new_head, options
        self.texts = TextTokenizer(tokenizer, lower_case=folder.layout.lower_case)
        self.padding = int(tokenizer.pad_token_id or 0)
        self.trunk = model.base_model
        limit = position_limit(self.trunk) or options.tokens
        if options.tokens > limit and options.tokens != LanguageModelOptions.tokens:
            raise InvalidInput(
                f"tokens is {options.tokens:,}, and {folder.name} reads {limit:,}", remedy=f"give at most {limit:,}"
            )
        self.longest = min(options.tokens, limit)  # special tokens included

    @property
    @abstractmethod
    def most_tokens(self) -> int:
        """Tokens of a piece, without special ones."""

    @abstractmethod
    def arranged(self, pieces: Pieces) -> Pieces:
        """The pieces as they are learned from."""

    @abstractmethod
    def batch(self, pieces: Pieces, numbers: Array, random: np.random.Generator) -> dict[str, Tensor]:
        """Make the tensors of a batch; `labels` (batch, tokens) int64 are `IGNORED` where nothing is predicted."""

    @abstractmethod
    def scores(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (n, words) of the tokens that are predicted, and those tokens (n,)."""

    def outcome(self, batch: dict[str, Tensor]) -> Outcome:
        """Predict the tokens of a batch."""
        scores, labels = self.scores(batch)
        loss = nn.functional.cross_entropy(scores.float(), labels, reduction="sum")
        return Outcome(loss, int((scores.argmax(dim=-1) == labels).sum()), len(labels))

    def padded(self, rows: list[Array], filler: int) -> Tensor:
        """Stack rows of different lengths (batch, tokens)."""
        return torch.from_numpy(stacked(rows, filler))
