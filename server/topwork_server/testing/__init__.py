"""Contracts that plugins keep, as pytest classes. A plugin author subclasses one a plugin, and runs pytest:

from topwork_server.testing import EncoderContract, IndexContract, PretrainerContract, TrainerContract

class TestMine(EncoderContract):
    encoder = "mine"
"""

import pytest

# Installed modules keep plain asserts, which do not show their values, unless they are named before their first import.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("bench", "declared", "encoder", "index", "pretrainer", "trainer", "problems"))
)

from topwork_server.testing.encoder import EncoderContract  # noqa: E402
from topwork_server.testing.index import IndexContract  # noqa: E402
from topwork_server.testing.pretrainer import PretrainerContract  # noqa: E402
from topwork_server.testing.trainer import TrainerContract  # noqa: E402

__all__ = ["EncoderContract", "IndexContract", "PretrainerContract", "TrainerContract"]
