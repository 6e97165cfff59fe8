"""HF datasets: a function for `Dataset.map` that adds a column of an encoder's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topwork.errors import InvalidInput, NotReady
from topwork.features import Array
from topwork.integrations._columns import ColumnEmbedder
from topwork.integrations._encoder import Role, Server
from topwork.integrations._extras import needs

with needs("datasets", "datasets"):
    from datasets import Features, List, Value


class TopworkEmbedder(ColumnEmbedder):
    """Embeds a column, batch by batch: `ds.map(embedder, batched=True, features=embedder.features(ds))`.

    encoder         its name on the server
    column          of texts, pictures (decoded or not), paths, bytes or recordings: what the encoder reads
    output          the new column: a list of numbers (float32) an item, of fixed length where `features` are passed
    tap             one with a row for each item; None: the encoder's default
    options         what the encoder declares, such as {"truncate": True}
    role            "document" or "query": the prompt that the encoder has for it goes before each item; None: its usual one
    normalize       rows of unit length
    dimensions      keep the first so many numbers of a row; 0 keeps all
    fingerprint     refuse another encoder than this
    skip_bad_items  None for an item that cannot be read, in place of an error
    server          "HOST:PORT"; None: $TOPWORK_SERVER, or 127.0.0.1:50051

    It asks the server for the fingerprint of the rows when it is made, and only takes rows of that: the cache of datasets finds
    what the same encoder embedded before, and nothing of another under its name. Raises NotFound for an encoder or NotReady for a
    fingerprint that the server does not have, Unavailable without a server.
    """

    def __init__(
        self,
        encoder: str,
        column: str,
        *,
        output: str = "embedding",
        tap: str | None = None,
        options: Mapping[str, Any] | None = None,
        role: Role | None = "document",
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        skip_bad_items: bool = False,
        server: Server = None,
    ) -> None:
        super().__init__(
            encoder,
            column,
            output=output,
            tap=tap,
            options=options,
            role=role,
            normalize=normalize,
            dimensions=dimensions,
            skip_bad_items=skip_bad_items,
            server=server,
        )
        now = self._remote.known_fingerprint()
        if not now:
            raise NotReady(f"{encoder} has no fingerprint yet", remedy="embed an item with it: its first use makes it ready")
        if fingerprint not in (None, now):
            raise NotReady(f"{encoder} has the fingerprint {now}, and another is asked for", remedy="pass that, or leave it out")
        self._remote.fingerprint = now

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all rows that this makes."""
        return self._remote.fingerprint or ""

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Array | list[Array | None]]:
        """The new column. Raises a TopworkError; its `item` is the position in the batch of the item to blame."""
        rows, is_good = self._rows(batch)
        if is_good.all():
            return {self.output: rows}
        return {self.output: [row if good else None for row, good in zip(rows, is_good, strict=True)]}

    def features(self, dataset: Any) -> Any:
        """The dataset's own features, and the new column's, whose lists have the length of a row."""
        if self.output in (dataset.features or {}):
            raise InvalidInput(f"the dataset has a column {self.output!r} already", remedy="name another `output`")
        info = self._remote.client.encoder(self._remote.encoder).tap(self._remote.tap)
        length = min(self._remote.dimensions or info.dim, info.dim) if info else -1
        return Features({**dataset.features, self.output: List(Value("float32"), length=length)})
