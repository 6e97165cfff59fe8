"""The next token: texts one after another in blocks, and the loss of predicting each from those before it. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from topwork_server import Array, InvalidInput
from torch import Tensor

from topwork_plugins.bert.loading import is_causal
from topwork_plugins.language_model.model_folder import ModelFolder
from topwork_plugins.language_model.objective import IGNORED, Objective
from topwork_plugins.language_model.options import CausalOptions
from topwork_plugins.language_model.tokenized import Pieces


class CausalObjective(Objective):
    """Texts stand one after another, each with the end-of-text token behind, in equal blocks (Radford et al. 2019)."""

    auto_class = "AutoModelForCausalLM"
    what = "language model"
    options: CausalOptions

    def __init__(self, folder: ModelFolder, model: Any, tokenizer: Any, new_head: list[str], options: CausalOptions) -> None:
        super().__init__(folder, model, tokenizer, new_head, options)
        self._end = tokenizer.eos_token_id
        if not is_causal(self.trunk):
            raise InvalidInput(
                f"{folder.name} ({folder.model_type}) reads texts in both directions: the next token would be no secret",
                remedy="name a decoder such as GPT-2",
            )

    @property
    def most_tokens(self) -> int:
        return self.longest

    def arranged(self, pieces: Pieces) -> Pieces:
        """Join texts, and cut what they make into blocks."""
        joined = np.concatenate([self._ended(pieces, number) for number in range(len(pieces))])
        made = Pieces()
        for start in range(0, max(len(joined) - 1, 1), self.longest):
            block = joined[start : start + self.longest]
            made.add(block.tolist(), [-1] * len(block))
        return made

    def batch(self, pieces: Pieces, numbers: Array, random: np.random.Generator) -> dict[str, Tensor]:
        """Stack blocks; all but the last one are of equal length."""
        rows = [pieces.piece(number)[0] for number in numbers.tolist()]
        ids, labels = self.padded(rows, self.padding), self.padded(rows, IGNORED)
        return {"input_ids": ids, "attention_mask": (labels != IGNORED).to(torch.int64), "labels": labels}

    def scores(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each token but the first is predicted."""
        found = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], return_dict=True).logits
        labels = batch["labels"][:, 1:]
        chosen = labels != IGNORED
        return found[:, :-1][chosen], labels[chosen]

    def _ended(self, pieces: Pieces, number: int) -> Array:
        """A piece, with the end behind it where the next is of another text."""
        ids, words = pieces.piece(number)
        following = pieces.piece(number + 1)[1] if number + 1 < len(pieces) else None
        goes_on = following is not None and len(words) == self.longest and following[:1].sum() > 0
        return ids if goes_on or self._end is None else np.append(ids, self._end)
