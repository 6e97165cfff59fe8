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
    options             what the encoder declares, for every item
    query_prompt        put before queries, in the place of the encoder's own prompt for them; "" for none at all
    document_prompt     put before documents, likewise
    normalize           rows of unit length
    dimensions          keep the first so many; 0 keeps all
    fingerprint         refuse rows of another (NotReady)
    """

    encoder: str
    server: Server = None
    tap: str | None = None
    options: Mapping[str, Any] | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    normalize: bool = False
    dimensions: int = 0
    fingerprint: str | None = None

    @property
    def is_plain(self) -> bool:
        """Tell whether rows come as they are in a set of the encoder: no settings but the tap change them."""
        return not (self.options or self.has_prompts or self.normalize or self.dimensions)

    @property
    def has_prompts(self) -> bool:
        """Tell whether queries or documents have another prompt than the encoder's own."""
        return self.query_prompt is not None or self.document_prompt is not None

    @property
    def client(self) -> Client:
        return client_of(self.server)

    def features(self, items: Sequence[Any], role: Role | None = None, *, skip_bad_items: bool = False) -> Features:
        """Features of items, one row each, or none where a bad one is skipped. The prompt for the role goes before them: the one
        given here, or else the encoder's own. Raises a TopworkError: InvalidInput with the position of a bad item, for a tap that
        has several rows an item, or for options against the role; NotFound for an encoder that the server does not have;
        Unavailable without a server."""
        prompt = {"query": self.query_prompt, "document": self.document_prompt}.get(role or "")
        found = self.client.embed(
            self.encoder,
            items,
            tap=self.tap,
            options={**(self.options or {}), **_prompt_options(prompt)} or None,
            role=role if prompt is None else None,
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

    def known_fingerprint(self) -> str:
        """The fingerprint of the tap's features on the server: rows compare only where it is equal. Empty before the encoder's
        first use there. Raises NotFound for an encoder, InvalidInput for a tap that the server does not have."""
        info = self.client.encoder(self.encoder)
        tap = info.tap(self.tap)
        if tap is None and info.taps:
            raise InvalidInput(f"{self.encoder} has no tap {self.tap!r}", remedy="`topwork encoders NAME` lists its taps")
        return tap.fingerprint if tap else ""


def _prompt_options(prompt: str | None) -> dict[str, Any]:
    """Return the options of an encoder that put a prompt before items; "" keeps its own away too."""
    if prompt is None:
        return {}
    return {"prompt": prompt} if prompt else {"prompt_name": "none"}
