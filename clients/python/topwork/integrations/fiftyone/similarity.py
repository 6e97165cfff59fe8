"""A feature set as a similarity backend of FiftyOne Brain: its settings, as FiftyOne stores them, and its factory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from topwork.integrations._encoder import Server, client_of
from topwork.integrations._extras import needs
from topwork.integrations.fiftyone.index import TopworkSimilarityIndex
from topwork.integrations.fiftyone.model import TopworkModel
from topwork.integrations.fiftyone.neighbors import METRICS

with needs("fiftyone", "fiftyone"):
    from fiftyone.brain.similarity import Similarity, SimilarityConfig
    from fiftyone.core.utils import to_slug


class TopworkSimilarityConfig(SimilarityConfig):
    """Settings of an index: `fob.compute_similarity(dataset, model=TopworkModel("clip-vit-base-patch32"), brain_key="near",
    backend=TopworkSimilarityConfig)`.

    set_name    the feature set; None: a new one, named for the dataset and the brain key
    metric      "cosine", "dotproduct" or "euclidean"
    index_kind  of an index over the set, such as "auto" or "hnsw" (`topwork index-kinds`), built where the first embeddings are
                added; None: all rows are compared, which takes a second for each gigabyte
    encoder     of the embeddings: the set is of this encoder, so that later sessions can ask by prompts, too, and the SDK by
                texts and pictures. It is that of `model` where this is a TopworkModel without other settings
    tap         of the encoder; None: its default
    server      "HOST:PORT", or an open client; None: $TOPWORK_SERVER, or 127.0.0.1:50051. It is not stored
    """

    def __init__(
        self,
        set_name: str | None = None,
        metric: str = "cosine",
        index_kind: str | None = None,
        encoder: str | None = None,
        tap: str | None = None,
        server: Server = None,
        model: Any = None,
        supports_prompts: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"Unsupported metric {metric!r}. Supported values are {tuple(METRICS)}")
        if isinstance(model, TopworkModel):
            server = server or model.remote.server
            if model.remote.is_plain:
                encoder, tap = model.remote.encoder, model.remote.tap
        super().__init__(model=model, supports_prompts=supports_prompts, **kwargs)
        self.set_name = set_name
        self.metric = metric
        self.index_kind = index_kind
        self.encoder = encoder
        self.tap = tap
        self._server = server  # private, so that it is not stored
        if encoder is not None:
            self.supports_prompts = supports_prompts

    def topwork_model(self) -> TopworkModel:
        """The encoder as a model."""
        return TopworkModel(self.encoder or "", tap=self.tap, server=self._server)

    @property
    def method(self) -> str:
        return "topwork"

    @property
    def server(self) -> Server:
        return self._server

    @server.setter
    def server(self, value: Server) -> None:
        self._server = value

    @property
    def max_k(self) -> int | None:
        return None

    @property
    def supports_least_similarity(self) -> bool:
        return self.metric != "euclidean"

    @property
    def supported_aggregations(self) -> tuple[str, ...]:
        return ("mean",)

    def load_credentials(self, server: Server = None) -> None:
        self._load_parameters(server=server)


class TopworkSimilarity(Similarity):
    """Makes an index of its settings."""

    def initialize(self, samples: Any, brain_key: str | None) -> TopworkSimilarityIndex:
        """A new index, whose set is made with the first embeddings. Raises a TopworkError where the server cannot be asked."""
        config = self.config
        if config.encoder is not None:
            config.supports_prompts = config.topwork_model().can_embed_prompts
        if config.set_name is None:
            known = {info.name for info in client_of(config.server).sets()}
            name = "-".join(["fiftyone", to_slug(samples._root_dataset.name), *([to_slug(brain_key)] if brain_key else [])])
            config.set_name = next(one for one in _numbered(name) if one not in known)
        index = TopworkSimilarityIndex(samples, config, brain_key, backend=self)
        index.save_config()
        return index


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in range(2, 1 << 30):
        yield f"{name}-{number}"
