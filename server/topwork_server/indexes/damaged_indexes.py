"""Indexes whose definition is damaged: listed, refused by name with DATA_LOSS, and dropped or created again as any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from topwork_server.errors import DataLoss


@dataclass(frozen=True, slots=True)
class DamagedIndex:
    """`damage` names the file and what is wrong with it."""

    set: str
    name: str
    damage: str

    def error(self) -> DataLoss:
        return DataLoss(
            f"the index {self.name!r} of the set {self.set!r} is damaged: {self.damage}",
            remedy="put the file back from a copy and start the server again, or drop the index and create it anew",
        )


class DamagedIndexes:
    """Damaged indexes that were found at the start, less those dropped or created again since."""

    def __init__(self, found: Iterable[DamagedIndex]) -> None:
        self._found = {(one.set, one.name): one for one in found}

    def of(self, set_name: str = "") -> list[DamagedIndex]:
        """List them by set and name, of one set or of all."""
        return [one for key, one in sorted(self._found.items()) if set_name in ("", key[0])]

    def get(self, set_name: str, name: str) -> DamagedIndex | None:
        return self._found.get((set_name, name))

    def forget(self, set_name: str, name: str = "") -> None:
        """One, or all of a set."""
        for key in [key for key in self._found if key[0] == set_name and name in ("", key[1])]:
            del self._found[key]
