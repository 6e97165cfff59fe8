"""An encoder of the server as a model of FiftyOne, which embeds samples, patches and prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from topwork.encoders import EncoderInfo
from topwork.errors import InvalidInput
from topwork.features import Array
from topwork.integrations._encoder import RemoteEncoder, Server
from topwork.integrations._extras import needs

with needs("fiftyone", "fiftyone"):
    from fiftyone.core.models import EmbeddingsMixin, Model, PromptMixin


class TopworkModel(EmbeddingsMixin, PromptMixin, Model):
    """Embeds pictures or videos: `dataset.compute_embeddings(TopworkModel("siglip-base-patch16-224"), batch_size=64)`.

    encoder      its name on the server
    tap          one with a row for each item; None: the encoder's default
    options      what the encoder declares, such as {"truncate": True}
    normalize    rows of unit length
    dimensions   keep the first so many numbers of a row; 0 keeps all
    fingerprint  refuse another encoder than this
    server       "HOST:PORT", or an open client; None: $TOPWORK_SERVER, or 127.0.0.1:50051

    FiftyOne reads the pictures and passes arrays on; give a `batch_size`, or each goes by itself. Used as a context, as FiftyOne
    does, it raises NotFound for an encoder that the server does not have, and Unavailable without a server.
    """

    def __init__(
        self,
        encoder: str,
        *,
        tap: str | None = None,
        options: Mapping[str, Any] | None = None,
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        server: Server = None,
    ) -> None:
        self.remote = RemoteEncoder(
            encoder, server, tap, options, normalize=normalize, dimensions=dimensions, fingerprint=fingerprint
        )
        self._preprocess = True
        self._embeddings: Array | None = None

    def __enter__(self) -> Self:
        """Ask the server for the encoder, so that what is wrong is told before the first sample."""
        self._modalities(self.remote.client.encoder(self.remote.encoder))
        return self

    @cached_property
    def _reads(self) -> tuple[str, ...]:
        return self._modalities(self.remote.client.encoder(self.remote.encoder))

    def _modalities(self, info: EncoderInfo) -> tuple[str, ...]:
        if not {"image", "video"} & set(info.modalities):
            raise InvalidInput(f"{info.name} reads {info.reads}", remedy="name an encoder of pictures or videos")
        return info.modalities

    @property
    def media_type(self) -> str:
        return "image" if "image" in self._reads else "video"

    @property
    def has_embeddings(self) -> bool:
        return True

    @property
    def can_embed_prompts(self) -> bool:
        """Tell whether the encoder reads texts, too."""
        return "text" in self._reads

    @property
    def ragged_batches(self) -> bool:
        """False: pictures of a batch may have any sizes, and the server makes them one."""
        return False

    @property
    def transforms(self) -> None:
        """None: the server preprocesses."""
        return None

    @property
    def preprocess(self) -> bool:
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: Any) -> None:
        """Embed without a prediction; `get_embeddings` gives the row."""
        self._embeddings = self.embed_all([arg])

    def get_embeddings(self) -> Array:
        """(1, dim) or (n, dim): rows of the last call."""
        if self._embeddings is None:
            raise InvalidInput("nothing was embedded yet", remedy="call embed or embed_all")
        return self._embeddings

    def embed(self, arg: Any) -> Array:
        """(dim,) float32 of a picture (H, W, 3) uint8, or a reader of a video. Raises a TopworkError."""
        row: Array = self.embed_all([arg])[0]
        return row

    def embed_all(self, args: Iterable[Any]) -> Array:
        """(n, dim) float32. Raises a TopworkError with the position of a bad one."""
        self._embeddings = self.remote.rows([item_of(arg) for arg in args], "document")
        return self._embeddings

    def embed_prompt(self, arg: str) -> Array:
        """(dim,) float32 of a text, in the space of the pictures."""
        row: Array = self.embed_prompts([arg])[0]
        return row

    def embed_prompts(self, args: Iterable[str]) -> Array:
        """(n, dim) float32 of texts. InvalidInput where the encoder reads none."""
        if not self.can_embed_prompts:
            raise InvalidInput(
                f"{self.remote.encoder} reads no texts", remedy="name an encoder of pictures and texts, such as CLIP"
            )
        return self.remote.rows(list(args), "query")


def item_of(arg: Any) -> Any:
    """Return what the SDK sends: the file of a video that a reader of ETA has open, or a picture as RGB."""
    if hasattr(arg, "inpath"):
        return Path(arg.inpath)
    if isinstance(arg, np.ndarray) and arg.ndim == 2:
        return np.repeat(arg[:, :, None], 3, axis=2)
    if isinstance(arg, np.ndarray) and arg.ndim == 3 and arg.shape[2] == 4:
        return np.ascontiguousarray(arg[:, :, :3])
    return arg
