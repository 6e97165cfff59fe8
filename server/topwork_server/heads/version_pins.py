"""Pins of set versions that heads need: "training-NAME" while NAME is trained on a version, "head-NAME" for as long as that head
exists, and "probe-..." while the version is probed.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress

from topwork_server.access.passes import SetPass, server_pass
from topwork_server.errors import NotFound, TopworkError
from topwork_server.feature_sets.dropped_sets import was_dropped
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.head_types import HeadDefinition

HEAD, TRAINING, PROBE = "head-", "training-", "probe-"
#: Pins whose names begin so belong to the server.
RESERVED_PREFIXES = (HEAD, TRAINING, PROBE)

log = logging.getLogger(__name__)


class VersionPins:
    """Pins and unpins versions. It blocks; calls for one name must not overlap."""

    def __init__(self, sets: FeatureSets) -> None:
        self._sets = sets

    def pin_training(self, definition: HeadDefinition) -> None:
        """Pin the version of a training. NotFound where the version is gone."""
        self._unpin(f"{TRAINING}{definition.name}")  # left by a server that ended
        self._pin(definition, f"{TRAINING}{definition.name}")

    def move_to_head(self, name: str, definition: HeadDefinition | None) -> None:
        """Replace the training pin by the head pin of the definition that now serves, or by none."""
        wanted = {(one.set, one.version) for one in definition.sources} if definition else set()
        if definition and wanted <= set(self._versions_with(f"{TRAINING}{name}")):
            self._unpin(f"{HEAD}{name}")
            self._pin(definition, f"{HEAD}{name}")
        elif definition is None:
            self._unpin(f"{HEAD}{name}")
        self._unpin(f"{TRAINING}{name}")

    def pin_probe(self, definitions: Iterable[HeadDefinition]) -> str:
        """Pin the versions of a probe, and return the name of the pin."""
        name = f"{PROBE}{secrets.token_hex(8)}"
        try:
            for definition in definitions:
                self._pin(definition, name)
        except BaseException:
            self._unpin(name)
            raise
        return name

    def release_probe(self, name: str) -> None:
        """Release the pin that `pin_probe` returned. It never raises: what is left is swept at the next start."""
        try:
            self._unpin(name)
        except TopworkError as error:
            log.warning("pin=%s is left: %s", name, error)

    def sweep(self, definition_of: Callable[[str], HeadDefinition | None]) -> None:
        """Correct the pins that a killed server left. Called at the start; it opens no set where all pins are right."""
        pins = {pin for found in self._sets.pins().values() for pin in found}
        for pin in sorted(pins):
            try:
                self._sweep_pin(pin, definition_of)
            except TopworkError as error:  # such as of a set that cannot be opened: the others are still swept
                log.warning("pin=%s could not be put right: %s", pin, error)

    def _sweep_pin(self, pin: str, definition_of: Callable[[str], HeadDefinition | None]) -> None:
        if pin.startswith(TRAINING):
            name = pin.removeprefix(TRAINING)
            self.move_to_head(name, definition_of(name))
        elif pin.startswith(PROBE) or (pin.startswith(HEAD) and definition_of(pin.removeprefix(HEAD)) is None):
            self._unpin(pin)

    def _versions_with(self, pin: str) -> list[tuple[str, int]]:
        """The sets and versions that have that pin."""
        sets = [name for name, pins in self._sets.pins().items() if pin in pins]
        return [
            (name, info.version)
            for name in sets
            for info in self._sets.get(server_pass(SetPass, name)).versions()
            if pin in (*info.pins, *info.damaged_pins)
        ]

    def _pin(self, definition: HeadDefinition, pin: str) -> None:
        """Pin the versions that it reads, replacing stale pins of that name. NotFound where a set was dropped."""
        for source in definition.sources:
            feature_set = self._sets.get(server_pass(SetPass, source.set))
            if source.created not in (0.0, feature_set.created):
                raise was_dropped(source.set)
            with suppress(NotFound):
                feature_set.unpin(pin)
            feature_set.pin(pin, source.version)

    def _unpin(self, pin: str) -> None:
        for name, pins in self._sets.pins().items():
            if pin in pins:
                with suppress(NotFound):  # the set was dropped in the meantime, or a user unpinned it
                    self._sets.get(server_pass(SetPass, name)).unpin(pin)
