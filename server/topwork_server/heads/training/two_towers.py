"""The encoder of two towers that an alignment gives: the trunk with the learned map, and the text encoder."""

from __future__ import annotations

import secrets
import tempfile
from dataclasses import replace
from pathlib import Path

from topwork_server.atomic_store import room_for
from topwork_server.heads.head_types import HeadDefinition
from topwork_server.heads.pooling import trained_views
from topwork_server.heads.training.training_result import TrainingResult
from topwork_server.models.catalog import Catalog


def with_two_towers(definition: HeadDefinition, result: TrainingResult, catalog: Catalog) -> TrainingResult:
    """Add the head's encoder to the catalog, exported, and name it in the result; where that raises, nothing is left of it."""
    assert definition.texts is not None, "an alignment has a text side"
    views = definition.views if definition.combine else (trained_views(definition)[result.fitted.view],)
    taps, again = (info for info, _ in definition.views), "the encoder has changed since: write the set again"
    catalog.entry(definition.encoder).check_taps(taps, f"the set {definition.set}", again)
    name = f"{definition.name}-{secrets.token_hex(4)}"  # never that of an encoder which serves
    trunk, texts = catalog.spec(definition.encoder), catalog.spec(definition.texts.encoder)
    trained_on = f"{trunk.trained_on}; texts: {texts.trained_on}; then {definition.target} of {definition.set}"
    with tempfile.TemporaryDirectory(prefix="topwork-align-") as scratch:
        map = Path(scratch) / "map.onnx"
        try:
            with room_for(f"the encoder {name}", "train again"):
                map.write_bytes(result.fitted.graph().SerializeToString())
                catalog.add_aligned(name, trunk.name, texts.name, map, [info.tap.name for info, _ in views], trained_on)
                catalog.export(name)
        except BaseException:
            catalog.delete(name)  # also the file of one that has no record yet
            raise
    return replace(result, tuned_encoder=name)
