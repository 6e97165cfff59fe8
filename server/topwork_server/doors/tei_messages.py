"""The requests and results of text-embeddings-inference, whichever wire they come by
(github.com/huggingface/text-embeddings-inference, router/src/http/types.rs and proto/tei.proto)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from topwork_server.errors import InvalidInput


class Settings(msgspec.Struct, kw_only=True):
    """The settings that any request with texts may have."""

    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] = "right"
    prompt_name: str | None = None


class EmbedAllRequest(Settings, kw_only=True):
    """`inputs` is a text, a list of texts, or token ids of the encoder's own tokenizer."""

    inputs: str | list[str | int | list[int]]


class EmbedRequest(EmbedAllRequest, kw_only=True):
    """Rows of unit length, unless `normalize` is false."""

    normalize: bool = True
    dimensions: int | None = None


class RerankRequest(Settings, kw_only=True):
    """`texts` are ranked by the query. `top_n`, `tap` and `options` are Topwork's."""

    query: str
    texts: list[str] | None = None
    raw_scores: bool = False
    return_text: bool = False
    top_n: int | None = None
    tap: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def truncation(self) -> tuple[bool | None, str]:
        return self.truncate, self.truncation_direction


class SimilarityInputs(msgspec.Struct):
    """A text, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(msgspec.Struct):
    """`parameters` are of all texts."""

    inputs: SimilarityInputs
    parameters: Settings | None = None


class TokenizeRequest(msgspec.Struct):
    """A text, or a list of texts."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(msgspec.Struct):
    """Token ids of a text, or of several."""

    ids: list[int | list[int]]
    skip_special_tokens: bool = True


class EmptyInput(InvalidInput):
    """There is nothing to work on."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a request: characters and tokens of its texts, and seconds; and what made its rows."""

    characters: int
    tokens: int
    total: float
    tokenization: float
    queue: float
    inference: float
    provider: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Rank:
    """A text of a request to rank: its position, its score, and itself where it was asked for."""

    index: int
    score: float
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """An encoder, or a head that gives `labels`, as TEI describes its model. `max_tokens` counts special tokens too, 0 where
    there is no bound; `ranks` where an encoder gives a score for a pair of texts."""

    name: str
    fingerprint: str
    dtype: str
    pooling: str
    max_tokens: int
    max_batch_tokens: int
    ranks: bool
    labels: Sequence[str] = ()
