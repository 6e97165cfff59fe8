"""Heads in the store are whole or not there, whenever their writer is killed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import sample_heads
from topwork_server.errors import DiskFull, InvalidInput, NotFound, NotReady, TopworkError
from topwork_server.heads.head_store import HeadStore

HEAD = sample_heads.head()
GRAPH = sample_heads.graph(HEAD)


@pytest.fixture
def store(tmp_path):
    return HeadStore(tmp_path / "heads")


def publish(store, name="birds", seed=0, **fields):
    head = sample_heads.head(name, **fields)
    store.publish(head, sample_heads.graph(head, seed), sample_heads.report(head))
    return head


def files(store):
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*"))


def test_a_head_comes_back_as_it_was(store):
    publish(store)
    assert store.get("birds") == HEAD
    assert store.all() == [HEAD]
    assert store.graph("birds").read_bytes() == GRAPH
    assert store.report("birds").estimate == "5-fold cross-validation over 20 items"
    assert store.bytes("birds") > len(GRAPH)
    store.find("birds").check_graph()


def test_a_damaged_graph_of_the_typicality_is_named(store):
    store.publish(HEAD, GRAPH, None, b"a graph")
    stored = store.find("birds")
    stored.check_graph(stored.typicality_graph)
    stored.typicality_graph.write_bytes(b"a grape")
    stored.check_graph()
    with pytest.raises(NotReady, match=r"'birds'.*typicality.onnx is not the file that was written"):
        stored.check_graph(stored.typicality_graph)


def test_another_process_that_published_is_seen(store):
    publish(HeadStore(store.folder))
    assert store.get("birds").created == HEAD.created
    publish(HeadStore(store.folder), seed=1, created=2.0)
    assert store.get("birds").created == 2.0
    assert store.graph("birds").read_bytes() == sample_heads.graph(HEAD, 1)
    assert len(files(store)) == len(["birds", "version", "head.json", "head.onnx", "report.json"])


def test_an_empty_store(store):
    assert store.names() == []
    assert store.all() == []
    store.sweep()
    with pytest.raises(NotFound, match="train it first"):
        store.get("birds")


def test_unknown_heads_name_what_is_near(store):
    publish(store)
    publish(store, "fish")
    with pytest.raises(NotFound, match=r"no head 'brids' .did you mean birds"):
        store.get("brids")
    for name in ("../heads/birds", "", ".x.part", "birds/../birds"):
        with pytest.raises(NotFound):
            store.get(name)
        with pytest.raises(NotFound):
            store.remove(name)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a" * 101, "-a", "a b", "ä"])
def test_names_that_are_none(store, name):
    with pytest.raises(InvalidInput, match="cannot name a head"):
        publish(store, name)


def test_a_head_without_a_report(store):
    store.publish(HEAD, GRAPH, None)
    with pytest.raises(NotFound, match="no report"):
        store.report("birds")


def test_a_removed_head_is_gone_and_may_come_again(store):
    publish(store)
    publish(store, "fish")
    store.remove("birds")
    assert store.names() == ["fish"]
    with pytest.raises(NotFound):
        store.get("birds")
    publish(store, created=5.0)
    assert store.get("birds").created == 5.0


def newest(store):
    return store.graph("birds").parent


def a_field_is_missing(folder):
    record = json.loads((folder / "head.json").read_text())
    del record["head"]["task"]
    (folder / "head.json").write_text(json.dumps(record))


DAMAGES = {
    "deleted": lambda folder: (folder / "head.json").unlink(),
    "truncated": lambda folder: (folder / "head.json").write_text("{"),
    "not text": lambda folder: (folder / "head.json").write_bytes(b"\xff\xfe"),
    "of something else": lambda folder: (folder / "head.json").write_text("[1]"),
    "of another format": lambda folder: (folder / "head.json").write_text('{"format": 99}'),
    "without a field": a_field_is_missing,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_head_is_named_and_hides_no_other(store, damage):
    publish(store)
    fish = publish(store, "fish")
    folder = newest(store)
    DAMAGES[damage](folder)
    assert store.names() == ["birds", "fish"]
    assert store.all() == [fish]
    with pytest.raises(NotReady, match="is damaged") as caught:
        store.get("birds")
    assert str(folder) in caught.value.message
    assert "train it again" in caught.value.remedy
    publish(store, created=7.0)
    assert store.get("birds").created == 7.0


def test_a_head_of_an_older_format_is_told_from_a_damaged_one(store):
    publish(store)
    path = newest(store) / "head.json"
    record = json.loads(path.read_text())
    del record["checksum"], record["head"]["server_version"]
    path.write_text(json.dumps({**record, "format": 1}))
    with pytest.raises(NotReady, match="format 1") as caught:
        store.get("birds")
    assert "train it again" in caught.value.remedy


def test_a_changed_graph_is_found(store):
    publish(store)
    store.graph("birds").write_bytes(GRAPH[:-1] + b"x")
    with pytest.raises(NotReady, match=r"head\.onnx is not the file"):
        store.find("birds").check_graph()


def test_what_killed_writers_left_is_swept(store):
    publish(store)
    before = files(store)
    (store.folder / ".abc.part" / "gone").mkdir(parents=True)
    (store.folder / "birds" / ".def.part").mkdir()
    (store.folder / "birds" / "1").mkdir()
    (store.folder / "never" / ".def.part").mkdir(parents=True)
    assert store.names() == ["birds"]
    assert store.get("birds") == HEAD
    store.sweep()
    assert files(store) == before


def test_a_full_disk_leaves_what_was_there(store, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        publish(store)
    assert files(store) in ([], ["birds"])
    monkeypatch.undo()
    publish(store)
    before = files(store)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        publish(store, created=9.0)
    assert files(store) == before
    assert store.get("birds") == HEAD


def test_a_head_that_is_dropped_while_it_is_written_does_not_come_back(store, monkeypatch):
    publish(store)
    real = os.fsync

    def drop(handle):
        monkeypatch.setattr(os, "fsync", real)
        store.remove("birds")
        real(handle)

    monkeypatch.setattr(os, "fsync", drop)
    with pytest.raises(TopworkError, match="cannot be written"):
        publish(store, created=9.0)
    assert files(store) == []


def test_clocks_go_back(store, monkeypatch):
    publish(store)
    monkeypatch.setattr("time.time_ns", lambda: 5)
    publish(store, created=9.0)
    assert store.get("birds").created == 9.0


def test_readers_see_one_whole_head_or_another(store):
    publish(store, created=0.0)
    graphs = [sample_heads.graph(HEAD, seed) for seed in (0, 1)]
    done = threading.Event()

    def replace():
        for i in range(1, 60):
            publish(HeadStore(store.folder), seed=i % 2, created=float(i))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    last, seen = 0.0, 0
    while not done.is_set():
        kept = store.find("birds")
        assert kept.head.created >= last
        last, seen = kept.head.created, seen + 1
        assert store.report("birds").head == "birds"
        try:
            assert kept.graph.read_bytes() == graphs[int(kept.head.created) % 2]
        except FileNotFoundError:
            assert store.find("birds").stamp != kept.stamp
    writer.join()
    assert seen > 5
    assert store.get("birds").created == 59.0


def test_a_numpy_number_is_a_number(store):
    publish(store, chosen={"l2": np.float32(0.5), "layers": np.int64(2)})
    assert store.get("birds").chosen == {"l2": 0.5, "layers": 2}


# A child for each system call of a publication, which dies there; says what a reader sees then, and after a sweep.
KILLER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import sample_heads
from topwork_server.heads.head_store import HeadStore, NewHead

folder, names, old = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]

def made(created):
    heads = [sample_heads.head(name, created=created) for name in names]
    return [NewHead(head, sample_heads.graph(head, 1), None) for head in heads]

def seen(store):
    return [(head.created, store.graph(head.name).stat().st_size) for head in store.all()]

step = 0
while True:
    step += 1
    child = os.fork()
    if not child:
        left = step
        def die(event, arguments):
            global left
            if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree", "os.listdir"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        new = made(2.0)
        sys.addaudithook(die)
        HeadStore(folder).publish_together(new)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    store = HeadStore(folder)
    before = seen(store)
    store.sweep()
    left = sorted(path.name for path in folder.rglob("*") if not path.name.isdecimal())
    print(status, seen(store), left, before == seen(store))
    if store.all() and store.all()[0].created == 2.0 and status:
        for name in names:
            store.remove(name)
        if old:
            store.publish_together(made(1.0))
    if not status:
        break
"""


def killed_at_each_step(store: HeadStore, names: str, *old: str) -> list[str]:
    code = KILLER.format(tests=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", code, str(store.folder), names, *old]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    assert len(lines) > 8
    assert lines[-1].startswith("0 [(2.0,")
    for line in lines[:-1]:
        assert line.startswith("9 ")
        assert line[2:].startswith(("[(1.0,", "[(2.0,") if old else ("[] []", "[(2.0,")), line
        assert ".part" not in line
    return lines


@pytest.mark.parametrize("replacing", [False, True])
def test_a_writer_killed_at_any_step_leaves_the_old_head_or_the_new_one(store, replacing):
    if replacing:
        publish(store, created=1.0)
    lines = killed_at_each_step(store, "birds", *["replacing"][: int(replacing)])
    assert all(line.endswith("True") for line in lines)


@pytest.mark.parametrize("replacing", [False, True])
def test_heads_that_are_trained_together_are_published_all_or_none(store, replacing):
    if replacing:
        for name in ("birds", "birds-size"):
            publish(store, name, created=1.0)
    lines = killed_at_each_step(store, "birds birds-size", *["replacing"][: int(replacing)])
    for line in lines:
        assert [line.count(f"({created},") for created in (1.0, 2.0)] in ([0, 2], [2, 0], [0, 0]), line
        assert ".publishing" not in line
    assert any(line.startswith("9 [(2.0,") and line.endswith("False") for line in lines)  # the sweep finished it
