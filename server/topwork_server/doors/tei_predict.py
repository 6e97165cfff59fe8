"""Classifies texts and pairs of texts as text-embeddings-inference does: POST /predict, and `tei.v1.Predict`.

A classifier is a head of classes or labels; the name of its encoder will do where that came with one such head.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from topwork_server.doors import tei_messages
from topwork_server.doors.calls import Call
from topwork_server.doors.prediction import HeadPredictor, check_classifies
from topwork_server.doors.tei import TeiCalls
from topwork_server.doors.text_inputs import each
from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import Head
from topwork_server.types import Array, TextItem


class PredictRequest(tei_messages.Settings, kw_only=True):
    """`inputs` is a text, a pair of texts [text, text], or a list of texts and pairs [[text], [text, text]]. `raw_scores` are
    those that the probabilities are made of."""

    inputs: str | list[str | list[str]]
    raw_scores: bool = False


@dataclass(frozen=True, slots=True)
class Predictions:
    """The scores of each class for each text (texts, classes) float32, the classes' names, and what it took."""

    scores: Array
    names: Sequence[str]
    cost: tei_messages.Cost

    def ranked(self) -> list[list[dict[str, Any]]]:
        """Score and label of each class, of each text the best first."""
        order = np.argsort(-self.scores, axis=1, kind="stable")
        rows = zip(order.tolist(), np.take_along_axis(self.scores, order, axis=1).tolist(), strict=True)
        return [
            [{"score": score, "label": self.names[i]} for i, score in zip(classes, scores, strict=True)]
            for classes, scores in rows
        ]


class TeiPredict:
    """Answers requests of either wire."""

    def __init__(self, heads: HeadPredictor, calls: TeiCalls) -> None:
        self._heads, self._calls = heads, calls

    async def head(self, call: Call[Any]) -> Head | None:
        """The head that a request names as its model; None where it names an encoder."""
        return await self._heads.of_model(self._calls.model(call))

    async def describe(self, call: Call[Any]) -> tei_messages.ModelInfo:
        """Describe the model that a request names, a head by its encoder too."""
        if (head := await self.head(call)) is None:
            return await self._calls.describe(call)
        await self._heads.reads(head)
        encoder = await self._calls.describe(replace(call, model=head.encoder))
        return replace(encoder, name=head.name, fingerprint=head.tap.fingerprint, labels=check_classifies(head).names)

    async def predict(self, call: Call[PredictRequest], *, wait: bool = False) -> Predictions:
        """The scores of each input, of which a pair is one."""
        began, body = time.monotonic(), call.body
        texts = each(self._calls.checked(sequences(body.inputs)), _text)
        head = await self._heads.classifier(call)
        options = await self._options(head, body)
        found = await self._heads.predict(call, head, texts, options=options, scores=body.raw_scores, wait=wait)
        output, times = found.outputs[0], found.timings
        scores = output.scores if body.raw_scores else output.probabilities
        assert scores is not None, "the head gives classes"
        cost = tei_messages.Cost(
            sum(len(one.text) + len(one.pair or "") for one in texts),
            found.cost,
            time.monotonic() - began,
            times.preprocess,
            times.queue,
            times.compute,
            found.features[0].numerics.provider,
            head.tap.fingerprint,
        )
        return Predictions(scores, head.names, cost)

    async def _options(self, head: Head, body: PredictRequest) -> dict[str, Any] | None:
        """The options of the head's own training, with those of the request, if it has any."""
        asked = await self._calls.options(head.encoder, body) if head.encoder else {}
        return {**head.encoder_options, **asked} if asked else None


def sequences(inputs: str | Sequence[Any]) -> Sequence[Sequence[str]]:
    """The texts and pairs of a request, each in a list of its own. A list of texts is one of them, as TEI reads it."""
    if isinstance(inputs, str):
        return [[inputs]]
    if inputs and isinstance(inputs[0], str):
        return [inputs]
    return inputs


def is_batch(inputs: str | Sequence[Any]) -> bool:
    """Tell whether the reply has a list for each of several inputs."""
    return not isinstance(inputs, str) and bool(inputs) and not isinstance(inputs[0], str)


def _text(given: Any) -> TextItem:
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= 2 or not all(isinstance(one, str) for one in given):
        raise InvalidInput("an input is neither a text nor a pair of texts", remedy="send [text] or [text, text] for each")
    return TextItem(*given)
