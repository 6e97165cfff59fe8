"""snapshot.py: a pinned version, read by another process while the set is written, pruned and compacted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from passes import of_set
from sample_batches import block, everything, names, wanted
from topwork_server.errors import InvalidInput, NotFound, NotReady
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import ColumnType, Selection
from topwork_server.feature_sets.snapshot import open_snapshot

OTHER = """
import sys
from pathlib import Path
from topwork_server.feature_sets.set_types import Selection
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.snapshot import open_snapshot
taken = open_snapshot(Path(sys.argv[1]), "birds", int(sys.argv[2]))
print(*(f"{i}:{y}" for b in taken.read(Selection(where="year > 1")).batches for i, y in zip(b.ids, b.metadata[0].values)))
"""


def test_a_version_stays_as_it_was(birds: FeatureSet) -> None:
    version = birds.write(block(names(0, 50), year=list(range(50)))).result().version
    birds.pin("head-x", version)
    before = everything(birds)
    birds.write(block(names(25, 60), 1, year=[0] * 35)).result()
    birds.delete(names(0, 5)).result()
    birds.compact()
    birds.prune(0)
    taken = open_snapshot(birds.path, "birds", version)
    assert taken.version == version
    assert taken.columns == {"year": ColumnType.INT}
    assert taken.definition == birds.definition
    found = everything(taken)  # type: ignore[arg-type]
    assert list(found) == list(before)
    for id, item in before.items():
        assert found[id]["year"] == item["year"]
        np.testing.assert_array_equal(found[id]["rows"], item["rows"])


def test_filters_ids_and_columns_are_as_in_the_set(birds: FeatureSet) -> None:
    birds.write(block(names(0, 9), contents=[*"abcdefgh", ""], year=[*range(8), None], label=["x"] * 9)).result()
    taken = open_snapshot(birds.path, "birds", birds.version)
    for selection in (
        Selection(where="year > 3", columns=["label"]),
        Selection(ids=["item-00002", "item-00007", "nobody"], taps=(), where="year < 5"),
        Selection(offset=2, limit=3, columns=()),
    ):
        mine, theirs = taken.read(selection), birds.read(selection)
        assert mine.total == theirs.total
        assert [(b.ids, b.metadata, len(b.taps)) for b in mine.batches] == [
            (b.ids, b.metadata, len(b.taps)) for b in theirs.batches
        ]
    assert taken.content_hashes() == dict(zip(names(0, 9), [*"abcdefgh", ""], strict=True))
    assert taken.content_hashes("year > 5") == {"item-00006": "g", "item-00007": "h"}
    with pytest.raises(InvalidInput, match="no metadata column 'color'"):
        taken.read(Selection(columns=["color"]))
    with pytest.raises(InvalidInput, match="'color'"):
        taken.content_hashes("color = 3")


def test_another_process_reads_beside_the_writer(birds: FeatureSet) -> None:
    version = birds.write(block(["a", "b", "c"], year=[1, 2, 3])).result().version
    birds.pin("head-x", version)
    birds.write(block(["b"], year=[0])).result()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    completed = subprocess.run(
        [sys.executable, "-c", OTHER, str(birds.path), str(version)], capture_output=True, text=True, env=environment, check=True
    )
    assert completed.stdout.split() == ["b:2", "c:3"]


def test_what_is_gone_is_told(birds: FeatureSet, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'birds' has no version 77; the newest is 1"):
        open_snapshot(birds.path, "birds", 77)
    with pytest.raises(NotFound, match="'nothing' was dropped"):
        open_snapshot(tmp_path / "nothing", "nothing", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotReady, match="'empty' cannot be opened"):
        open_snapshot(tmp_path / "empty", "empty", 1)


@pytest.mark.parametrize("again", [False, True], ids=["dropped", "dropped and made anew"])
def test_a_set_that_is_dropped_under_another_process_is_told_so(
    again: bool, sets: FeatureSets, birds: FeatureSet, tmp_path: Path
) -> None:
    """Not that its files are damaged, and no rows of another set of that name, whichever versions that one has."""
    rows = block(names(0, 4), year=[1, 2, 3, 4])
    birds.write(rows).result()
    path, version, created = birds.path, birds.version, birds.created
    taken = open_snapshot(path, "birds", version, created)
    reading = open_snapshot(path, "birds", version, created).read(Selection())
    sets.drop(of_set("birds"))
    if again:
        sets.create(wanted()).write(rows).result()
    for call in (
        lambda: open_snapshot(path, "birds", version, created),
        lambda: open_snapshot(path, "birds", version + 5, created),
        lambda: taken.read(Selection(where="year > 1")),
        lambda: [*reading.batches],
        taken.content_hashes,
    ):
        with pytest.raises(NotFound, match="the feature set 'birds' was dropped") as caught:
            call()
        assert str(tmp_path) not in str(caught.value)
