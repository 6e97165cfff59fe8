"""`topwork doctor` on the files of a home: which are damaged, and what that costs. Deletes and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topwork_server import json_records
from topwork_server.atomic_store import file_sha256
from topwork_server.commands.doctor_checks import Finding, Grade
from topwork_server.errors import DataLoss, TopworkError
from topwork_server.jobs.job_records import JobRecord, damaged_records
from topwork_server.models import artifacts

#: Shown of those that are damaged.
SHOWN = 20


def files(home: Path) -> Finding:
    """Check every record under the home, and the checksums of what heads and indexes keep."""
    lost, again, aside = list(_lost(home)), list(_made_again(home)), damaged_records(home / "jobs")
    if not lost and not again and not aside:
        return Finding(Grade.OK, f"the records in {home} are whole")
    shown = [*lost, *(f"{one} (it is made again)" for one in again), *aside]
    left = f"; and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    remedy = (
        "put those files back from a copy, or delete what they belong to: `topwork forget ENCODER`, `topwork heads drop HEAD`, "
        "`topwork drop SET`"
    )
    return Finding(Grade.FAIL if lost else Grade.WARN, "; ".join(shown[:SHOWN]) + left, remedy if lost else "")


def _lost(home: Path) -> Iterator[str]:
    """List the damage that only a copy repairs."""
    from topwork_server.feature_sets.open_set import find_damage
    from topwork_server.heads.training_log import TrainingRecord
    from topwork_server.indexes.index_store import IndexStore
    from topwork_server.models.encoder_records import EncoderRecords

    records = EncoderRecords(home / "encoders")
    found = records.read()
    yield from (error.message for error in found.damaged.values())
    for name, record in found.intact.items():
        yield from _weights(records.path(name), record)
    for path in sorted((home / "sets").glob("[!.]*.lance")):
        yield from find_damage(path)
    yield from _heads(home / "heads")
    yield from (one.damage for one in IndexStore(home / "indexes").damaged())
    for path in sorted((home / "trainings").glob("*.json")):
        yield from _damage(path, TrainingRecord)
    for path in sorted((home / "jobs").glob("*.json")):
        yield from _damage(path, JobRecord)


def _weights(path: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """List the damage of the file that was fine-tuned, aligned or quantized here, if any."""
    from topwork_server.models.encoder_records import INT8_SUFFIX, MAP_SUFFIX, WEIGHTS_SUFFIX

    if "sha256" not in record:
        return
    suffix = INT8_SUFFIX if "int8_of" in record else MAP_SUFFIX if "texts" in record else WEIGHTS_SUFFIX
    file = path.with_suffix(suffix)
    try:
        if file_sha256(file) != record["sha256"]:
            yield f"{file} is damaged: it is not the file that was written"
    except OSError as error:
        yield f"{file} is damaged: {error.strerror}"


def _heads(folder: Path) -> Iterator[str]:
    from topwork_server.heads.head_store import REPORT, HeadStore

    store = HeadStore(folder)
    for name in store.names():
        try:
            stored = store.find(name)
            stored.check_graph()
            stored.check_graph(stored.typicality_graph)
            if (stored.graph.parent / REPORT).exists() or stored.report:
                store.report(name)
        except TopworkError as error:
            yield error.message
        except OSError as error:
            yield f"the head {name!r} is damaged: {error}"


def _made_again(home: Path) -> Iterator[str]:
    from topwork_server.indexes.index_store import IndexStore

    yield from filter(None, (artifacts.damage(folder) for folder in artifacts.folders(home)))
    store = IndexStore(home / "indexes")
    for index in store.stored():
        yield from store.build_folder(index.definition.set, index.definition.name).damage()


def _damage(path: Path, kind: type[object]) -> Iterator[str]:
    try:
        json_records.read(path, kind)
    except DataLoss as error:
        yield error.message
    except OSError:
        pass  # it was deleted meanwhile
