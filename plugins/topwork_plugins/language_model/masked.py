"""Masked words: which are chosen, what stands in their place, and the loss of predicting them. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from topwork_server import Array, InvalidInput
from torch import Tensor

from topwork_plugins.bert.word_head import WordScores
from topwork_plugins.language_model.model_folder import ModelFolder
from topwork_plugins.language_model.objective import IGNORED, Objective
from topwork_plugins.language_model.options import MaskedOptions
from topwork_plugins.language_model.tokenized import Pieces

#: Of the tokens that are predicted: part that becomes the mask, and part that becomes any token; the rest stays (Devlin et al.
#: 2019, A.1).
MASKED, REPLACED = 0.8, 0.1


class MaskedObjective(Objective):
    """Whole words are hidden, of which the model sees both sides."""

    auto_class = "AutoModelForMaskedLM"
    what = "masked language model"
    options: MaskedOptions

    def __init__(self, folder: ModelFolder, model: Any, tokenizer: Any, new_head: list[str], options: MaskedOptions) -> None:
        super().__init__(folder, model, tokenizer, new_head, options)
        if tokenizer.mask_token_id is None:
            raise InvalidInput(f"the tokenizer of {folder.name} has no mask token", remedy="name a model with a mask")
        self._mask, self._before, self._after = int(tokenizer.mask_token_id), *self.texts.special()
        special = set(tokenizer.all_special_ids)
        self._ordinary = np.array([token for token in range(len(tokenizer)) if token not in special], np.int64)
        self._head = WordScores(model)

    @property
    def most_tokens(self) -> int:
        return self.longest - len(self._before) - len(self._after)

    def arranged(self, pieces: Pieces) -> Pieces:
        """Leave each piece by itself."""
        return pieces

    def batch(self, pieces: Pieces, numbers: Array, random: np.random.Generator) -> dict[str, Tensor]:
        """Hide words of each piece, others each time."""
        made = [self._hidden(*pieces.piece(number), random) for number in numbers.tolist()]
        ids, labels = self.padded([ids for ids, _ in made], self.padding), self.padded([labels for _, labels in made], IGNORED)
        there = self.padded([np.ones(len(ids), np.int64) for ids, _ in made], 0)
        return {"input_ids": ids, "attention_mask": there, "labels": labels}

    def scores(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head reads the rows of hidden tokens alone: 15% of the work over a vocabulary of 30,000."""
        labels = batch["labels"]
        rows = self.trunk(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], return_dict=True
        ).last_hidden_state
        chosen = labels != IGNORED
        return self._head(rows[chosen]), labels[chosen]

    def _hidden(self, ids: Array, words: Array, random: np.random.Generator) -> tuple[Array, Array]:
        chosen = choose(words if self.options.whole_words else np.arange(len(ids)), self.options.masked, random)
        labels = np.where(chosen, ids, IGNORED)
        chance = random.random(len(ids))
        seen = np.where(chosen & (chance < MASKED), self._mask, ids)
        replaced = chosen & (chance >= MASKED) & (chance < MASKED + REPLACED)
        seen = np.where(replaced, random.choice(self._ordinary, len(ids)), seen)
        around = [np.full(count, IGNORED) for count in (len(self._before), len(self._after))]
        return np.concatenate([self._before, seen, self._after]), np.concatenate([around[0], labels, around[1]])


def choose(words: Array, part: float, random: np.random.Generator) -> Array:
    """Choose whole words, at least one: (tokens,) bool of the number of the word of each token (-1: of none, by itself)."""
    alone = np.where(words < 0, np.arange(len(words)) + words.max(initial=0) + 1, words)
    _, places = np.unique(alone, return_inverse=True)
    count = int(places.max(initial=0)) + 1
    taken = random.random(count) < part
    taken[random.integers(count)] |= not taken.any()
    return np.asarray(taken[places])
