"""The one call behind all doors that predict: a head by name, items, and what it says of them in return."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from topwork._display.excerpts import excerpt

from topwork_server.doors.calls import Call
from topwork_server.doors.embedding import Embedder
from topwork_server.errors import InvalidInput, NotFound, NotReady
from topwork_server.heads.head_manager import HeadManager
from topwork_server.heads.head_status import HeadDescription
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.serving.head_decoding import USUAL_BOXES, BoxQuery
from topwork_server.heads.serving.predictor import PredictionResult, Predictor, PredictParams
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.names import instead
from topwork_server.services.encoders import check_fingerprint
from topwork_server.types import Item, Modality

#: Begins the name of a head where an encoder may be meant too. No name has a colon.
PREFIX = "head:"
#: Tasks of heads that give classes or labels, each with its probability.
CLASSIFYING = (Task.CLASSIFICATION, Task.MULTI_LABEL)
#: Tasks of heads that predict nothing of an item by themselves.
SILENT = (Task.FILL, Task.ALIGNMENT)


class HeadPredictor:
    """Predicts for doors. They name heads as `topwork.v1.Heads` does: by the name of the training, or ENCODER/NAME. Where a door
    has names of encoders too, NAME is the encoder, and "head:NAME" the head that has the same name."""

    def __init__(self, embedder: Embedder, predictor: Predictor, heads: HeadManager) -> None:
        self._embedder, self._predictor, self._heads = embedder, predictor, heads

    async def of_model(self, model: str) -> Head | None:
        """The head that a model's name means; None where it means an encoder. NotFound where it is neither's; NotReady where the
        head does not serve."""
        if model.startswith(PREFIX) or "/" in model:
            return await self.find(model)
        try:
            await self._embedder.spec(model)
            return None
        except NotFound:
            pass
        try:
            return await self.find(model)
        except NotFound:
            names = [*await self._embedder.names(), *(one.name for one in await self._heads.list())]
            remedy = instead(model, names, "pull an encoder first")
            raise NotFound(f"there is no model {excerpt(model)}", remedy=remedy) from None

    async def find(self, name: str) -> Head:
        """The head of that name. NotFound where there is none; NotReady where it does not serve yet; InvalidInput for one that
        predicts nothing of items."""
        name = name.removeprefix(PREFIX)
        allowed = await self._heads.pass_for(name)
        try:
            return (await asyncio.to_thread(self._predictor.find_predicting, allowed)).head
        except NotFound:
            await self._heads.check_served([allowed])  # of one that is in training there is more to say
            raise

    async def classifier(self, call: Call[Any]) -> Head:
        """The head that gives classes or labels and that a request is for: by its own name, or by that of its encoder, where that
        came with one such head."""
        name = self._embedder.name(call)
        try:
            head = await self.find(name)
        except NotFound:
            head = await self._sole_classifier(name)
        return check_classifies(head)

    async def _sole_classifier(self, encoder: str) -> Head:
        """The one head of classes that came with an encoder."""
        if await self.of_model(encoder) is None:  # NotFound where it is no encoder either
            heads = [one.head for one in await self._heads.list(encoder) if one.head]
            own = [head for head in heads if head.pretrained and head.task in CLASSIFYING]
            if len(own) == 1:
                return own[0]
            if own:
                raise InvalidInput(
                    f"{encoder} has several heads that classify", remedy=f"name {' or '.join(head.name for head in own)}"
                )
        raise NotReady(f"{encoder} is no classifier", remedy="name a head of `ListHeads`, or train one on it")

    async def reads(self, head: Head) -> Sequence[Modality]:
        """Return what a head can be sent: what all of its encoders read."""
        if "" in head.encoders:
            raise NotReady(
                f"the head {head.name!r} was trained on ready vectors of no encoder",
                remedy="send vectors to topwork.v1.Heads/Predict",
            )
        found = [await self._embedder.modalities(encoder) for encoder in head.encoders]
        return [one for one in found[0] if all(one in others for others in found)]

    async def predict(
        self,
        call: Call[Any],
        head: Head,
        items: Sequence[Item],
        *,
        options: Mapping[str, Any] | None = None,
        boxes: BoxQuery = USUAL_BOXES,
        scores: bool = False,
        wait: bool = False,
    ) -> PredictionResult:
        """Predict for items. `options` of the encoder: None means those of the head's own training. `features` of the result tell
        what computed them. NotReady where the request insists on another fingerprint. `wait` waits for room in the queue."""
        check_fingerprint(call.fingerprint, head.encoder, head.tap)
        params = PredictParams(
            options=options,
            deadline=call.deadline,
            wait=wait,
            features=True,
            scores=scores,
            client=call.client,
            priority=call.priority,
            boxes=boxes,
        )
        return await self._predictor.predict([await self._heads.pass_for(head.name)], params, items)

    async def listed(self) -> Sequence[HeadDescription]:
        """All heads that predict something of items, by their names, or will once they are trained."""
        return [one for one in await self._heads.list() if (one.head or one.definition) and _task(one) not in SILENT]

    async def load(self, head: Head) -> None:
        """Open a head's graph."""
        name = await self._heads.pass_for(head.name)
        await asyncio.to_thread(self._predictor.cache.open, lambda: self._predictor.find(name))

    def unload(self, head: Head) -> None:
        """Drop a head's graph from memory."""
        self._predictor.cache.drop(head.name)

    def is_loaded(self, head: Head) -> bool:
        return head.name in self._predictor.cache.names()

    @property
    def all_statistics(self) -> Mapping[str, EmbedStatistics]:
        """Counts of the requests that named a head, of all doors, by the names of heads."""
        return self._predictor.statistics

    def statistics(self, head: Head) -> EmbedStatistics:
        """Counts of the requests that named a head, of all doors."""
        return self._predictor.statistics.get(head.name) or EmbedStatistics()


def check_classifies(head: Head) -> Head:
    """The head. NotReady where it gives no classes."""
    if head.task not in CLASSIFYING:
        raise NotReady(f"the head {head.name!r} is for {head.task}, and gives no classes", remedy="name one that classifies")
    return head


def _task(described: HeadDescription) -> Task | None:
    found = described.head or described.definition
    return found.task if found else None
