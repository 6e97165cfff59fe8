"""Encoders that were fine-tuned together with a head, and are dropped with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress

from topwork_server.access.passes import SetPass, server_pass
from topwork_server.errors import NotReady, TopworkError
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head
from topwork_server.models.catalog import Catalog

log = logging.getLogger(__name__)


class FineTunedEncoders:
    """Drops the encoders whose head is gone. Its methods block."""

    def __init__(self, store: HeadStore, sets: FeatureSets, catalog: Catalog) -> None:
        self._store, self._sets, self._catalog = store, sets, catalog

    def check_droppable(self, head: Head) -> None:
        """Raise NotReady where anything else uses the encoder that would be dropped with the head."""
        users = list(self.users(head.tuned, head.name)) if head.tuned else []
        if users:
            raise NotReady(
                f"the encoder {head.tuned} goes with the head {head.name!r}, and on it stand {', '.join(users)}",
                remedy="drop those first",
            )

    def drop(self, encoder: str) -> None:
        self._catalog.delete_fine_tuned(encoder)

    def sweep(self, name: str = "") -> None:
        """Drop the unused encoders whose head was replaced or never ready, of one name or of all.

        No training of that name may be running.
        """
        for encoder in self._catalog.fine_tuned():
            if (not name or _is_of(name, encoder)) and not self._has_head(encoder):
                try:
                    self._sweep_encoder(encoder)
                except TopworkError as error:  # such as a base that is gone: the others are still swept
                    log.warning("encoder=%s has no head any more, and stays: %s", encoder, error)

    def _sweep_encoder(self, encoder: str) -> None:
        users = list(self.users(encoder))
        if users:
            log.info("encoder=%s has no head any more, and stays: on it stand %s", encoder, ", ".join(users))
        else:
            self.drop(encoder)

    def _has_head(self, encoder: str) -> bool:
        return any(self._goes_with(name, encoder) for name in self._store.names())

    def _goes_with(self, name: str, encoder: str) -> bool:
        """Tell whether the encoder was tuned with that head; where the head is damaged, whether its name says so."""
        try:
            return self._store.get(name).tuned == encoder
        except TopworkError:
            return _is_of(name, encoder)

    def users(self, encoder: str, but: str = "") -> Iterator[str]:
        """Name the sets, heads and encoders that use an encoder, besides the head `but`."""
        for set_name in self._sets.names():
            with suppress(TopworkError):  # a set that cannot be opened uses nothing
                if self._sets.get(server_pass(SetPass, set_name)).definition.encoder == encoder:
                    yield f"the set {set_name}"
        yield from (f"the head {head.name}" for head in self._store.all() if encoder in head.encoders and head.name != but)
        yield from (f"the encoder {other}" for other in self._catalog.derived_from(encoder))


def _is_of(name: str, encoder: str) -> bool:
    """Tell whether `training/fine_tuning.py` gave an encoder its name for that head."""
    return re.fullmatch(f"{re.escape(name)}-[0-9a-f]{{8}}", encoder) is not None
