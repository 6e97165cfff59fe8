"""Ray Data: a class for `Dataset.map_batches` that adds a column of an encoder's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topwork.features import Array
from topwork.integrations._columns import ColumnEmbedder


class TopworkBatchEmbedder(ColumnEmbedder):
    """Embeds a column, batch by batch, in actors of which each has one connection:

    ds.map_batches(TopworkBatchEmbedder, fn_constructor_kwargs={"encoder": "all-minilm-l6-v2", "column": "text"}, batch_size=256,
                   concurrency=4)

    encoder         its name on the server
    column          of texts, pictures (arrays), paths, bytes or recordings: what the encoder reads
    output          the new column, "embedding": (n, dim) float32
    tap             one with a row for each item; None: the encoder's default
    options         what the encoder declares, such as {"truncate": True}
    role            "document" or "query": the prompt that the encoder has for it goes before each item; None: its usual one
    normalize       rows of unit length
    dimensions      keep the first so many numbers of a row; 0 keeps all
    fingerprint     refuse another encoder than this
    skip_bad_items  rows of NaN for items that cannot be read, in place of an error
    server          "HOST:PORT", as the actors reach it; None: $TOPWORK_SERVER of their processes, or 127.0.0.1:50051; or a
                    topwork.Client, which each opens again: it says how long a server that is away or overloaded is tried

    `batch_format` is "numpy", Ray's usual one. An encoder that the server does not have ends the job with an actor's first batch.
    """

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Any]:
        """The batch with the new column. Raises a TopworkError; its `item` is the position in the batch of the item to blame."""
        rows, _ = self._rows(batch)
        return {**batch, self.output: rows}
