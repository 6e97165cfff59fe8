"""One encoder of a server, as the integrations use it: plain settings that pickle, and a connection that the process shares."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from topwork.client import Client
from topwork.errors import InvalidInput
from topwork.features import Array, Features

#: "HOST:PORT", an open client, or None: $TOPWORK_SERVER, or the usual address.
Server: TypeAlias = str | Client | None
Role: TypeAlias = Literal["document", "query"]
DEFAULT_SERVER = "127.0.0.1:50051"
#: By process, so that one that was forked opens its own, and address.
_clients: dict[tuple[int, str], Client] = {}


def client_of(server: Server) -> Client:
    """The connection to a server that all integrations of this process share, or the client that was passed."""
    if isinstance(server, Client):
        return server
    target = os.environ.get("TOPWORK_SERVER", DEFAULT_SERVER) if server is None else server
    key = os.getpid(), target
    if key not in _clients:
        _clients.setdefault(key, Client(target))
    return _clients[key]


@dataclass
class RemoteEncoder:
    """An encoder by its name, and how its rows are asked for.

    tap                 its default tap where None; one with a row for each item
    options             what the encoder declares, for every item; `query_options` and `document_options` are added for items of
                        that role, such as {"prompt_name": "query"}
    normalize           rows of unit length
    dimensions          keep the first so many; 0 keeps all
    fingerprint         refuse rows of another (NotReady)
    """

    encoder: str
    server: Server = None
    tap: str | None = None
    options: Mapping[str, Any] | None = None
    query_options: Mapping[str, Any] | None = None
    document_options: Mapping[str, Any] | None = None
    normalize: bool = False
    dimensions: int = 0
    fingerprint: str | None = None

    @property
    def is_plain(self) -> bool:
        """Tell whether rows come as they are in a set of the encoder: no settings but the tap change them."""
        return not (self.options or self.query_options or self.document_options or self.normalize or self.dimensions)

    @property
    def client(self) -> Client:
        return client_of(self.server)

    def features(self, items: Sequence[Any], role: Role | None = None, *, skip_bad_items: bool = False) -> Features:
        """Features of items, one row each, or none where a bad one is skipped. Raises a TopworkError: InvalidInput with the
        position of a bad item, or for a tap that has several rows an item; NotFound for an encoder that the server does not have;
        Unavailable without a server."""
        found = self.client.embed(
            self.encoder,
            items,
            tap=self.tap,
            options=self.options_for(role),
            normalize=self.normalize,
            dimensions=self.dimensions,
            fingerprint=self.fingerprint,
            skip_bad_items=skip_bad_items,
        )
        if found.granularity != "item":
            raise InvalidInput(
                f"{self.encoder}/{found.tap} has a row for each {found.granularity}, not for each item",
                remedy="choose a tap with a row an item: `topwork encoders NAME` lists them",
            )
        return found

    def rows(self, items: Sequence[Any], role: Role | None = None) -> Array:
        """(n, dim) float32, a row for each item. Raises as `features`."""
        return self.features(items, role).rows

    def lists(self, items: Sequence[Any], role: Role | None = None) -> list[list[float]]:
        """Rows as lists of floats. Raises as `features`."""
        return self.rows(items, role).tolist() if len(items) else []

    def options_for(self, role: Role | None) -> dict[str, Any] | None:
        own = {"query": self.query_options, "document": self.document_options, None: None}[role]
        return {**(self.options or {}), **(own or {})} or None

    def known_fingerprint(self) -> str:
        """The fingerprint of the tap's features on the server: rows compare only where it is equal. Empty before the encoder's
        first use there. Raises NotFound for an encoder, InvalidInput for a tap that the server does not have."""
        info = self.client.encoder(self.encoder)
        tap = info.tap(self.tap)
        if tap is None and info.taps:
            raise InvalidInput(f"{self.encoder} has no tap {self.tap!r}", remedy="`topwork encoders NAME` lists its taps")
        return tap.fingerprint if tap else ""
