"""Being written."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server import TrainerSpec, hookimpl


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    return ()
