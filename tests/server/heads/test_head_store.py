"""What is on the shelf of heads is whole or not there, whenever its writer is killed."""

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
def shelf(tmp_path):
    return HeadStore(tmp_path / "heads")


def publish(shelf, name="birds", seed=0, **fields):
    head = sample_heads.head(name, **fields)
    shelf.publish(head, sample_heads.graph(head, seed), sample_heads.report(head))
    return head


def files(shelf):
    return sorted(str(path.relative_to(shelf.folder)) for path in shelf.folder.rglob("*"))


def test_a_head_comes_back_as_it_was(shelf):
    publish(shelf)
    assert shelf.get("birds") == HEAD
    assert shelf.all() == [HEAD]
    assert shelf.graph("birds").read_bytes() == GRAPH
    assert shelf.report("birds").estimate == "5-fold cross-validation over 20 items"
    assert shelf.bytes("birds") > len(GRAPH)
    shelf.find("birds").check_graph()


def test_another_process_that_published_is_seen(shelf):
    publish(HeadStore(shelf.folder))
    assert shelf.get("birds").created == HEAD.created
    publish(HeadStore(shelf.folder), seed=1, created=2.0)
    assert shelf.get("birds").created == 2.0
    assert shelf.graph("birds").read_bytes() == sample_heads.graph(HEAD, 1)
    assert len(files(shelf)) == len(["birds", "version", "head.json", "head.onnx", "report.json"])


def test_an_empty_shelf(shelf):
    assert shelf.names() == []
    assert shelf.all() == []
    shelf.sweep()
    with pytest.raises(NotFound, match="train it first"):
        shelf.get("birds")


def test_unknown_heads_name_what_is_near(shelf):
    publish(shelf)
    publish(shelf, "fish")
    with pytest.raises(NotFound, match=r"no head 'brids' .did you mean birds"):
        shelf.get("brids")
    for name in ("../heads/birds", "", ".x.part", "birds/../birds"):
        with pytest.raises(NotFound):
            shelf.get(name)
        with pytest.raises(NotFound):
            shelf.remove(name)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a" * 101, "-a", "a b", "ä"])
def test_names_that_are_none(shelf, name):
    with pytest.raises(InvalidInput, match="cannot name a head"):
        publish(shelf, name)


def test_a_head_without_a_report(shelf):
    shelf.publish(HEAD, GRAPH, None)
    with pytest.raises(NotFound, match="no report"):
        shelf.report("birds")


def test_a_removed_head_is_gone_and_may_come_again(shelf):
    publish(shelf)
    publish(shelf, "fish")
    shelf.remove("birds")
    assert shelf.names() == ["fish"]
    with pytest.raises(NotFound):
        shelf.get("birds")
    publish(shelf, created=5.0)
    assert shelf.get("birds").created == 5.0


def newest(shelf):
    return shelf.graph("birds").parent


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
def test_a_damaged_head_is_named_and_hides_no_other(shelf, damage):
    publish(shelf)
    fish = publish(shelf, "fish")
    folder = newest(shelf)
    DAMAGES[damage](folder)
    assert shelf.names() == ["birds", "fish"]
    assert shelf.all() == [fish]
    with pytest.raises(NotReady, match="is damaged") as caught:
        shelf.get("birds")
    assert str(folder) in caught.value.message
    assert "train it again" in caught.value.remedy
    publish(shelf, created=7.0)
    assert shelf.get("birds").created == 7.0


def test_a_changed_graph_is_found(shelf):
    publish(shelf)
    shelf.graph("birds").write_bytes(GRAPH[:-1] + b"x")
    with pytest.raises(NotReady, match=r"head\.onnx is not the file"):
        shelf.find("birds").check_graph()


def test_what_killed_writers_left_is_swept(shelf):
    publish(shelf)
    before = files(shelf)
    (shelf.folder / ".abc.part" / "gone").mkdir(parents=True)
    (shelf.folder / "birds" / ".def.part").mkdir()
    (shelf.folder / "birds" / "1").mkdir()
    (shelf.folder / "never" / ".def.part").mkdir(parents=True)
    assert shelf.names() == ["birds"]
    assert shelf.get("birds") == HEAD
    shelf.sweep()
    assert files(shelf) == before


def test_a_full_disk_leaves_what_was_there(shelf, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        publish(shelf)
    assert files(shelf) in ([], ["birds"])
    monkeypatch.undo()
    publish(shelf)
    before = files(shelf)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        publish(shelf, created=9.0)
    assert files(shelf) == before
    assert shelf.get("birds") == HEAD


def test_a_head_that_is_dropped_while_it_is_written_does_not_come_back(shelf, monkeypatch):
    publish(shelf)
    real = os.fsync

    def drop(handle):
        monkeypatch.setattr(os, "fsync", real)
        shelf.remove("birds")
        real(handle)

    monkeypatch.setattr(os, "fsync", drop)
    with pytest.raises(TopworkError, match="cannot be written"):
        publish(shelf, created=9.0)
    assert files(shelf) == []


def test_clocks_go_back(shelf, monkeypatch):
    publish(shelf)
    monkeypatch.setattr("time.time_ns", lambda: 5)
    publish(shelf, created=9.0)
    assert shelf.get("birds").created == 9.0


def test_readers_see_one_whole_head_or_another(shelf):
    publish(shelf, created=0.0)
    graphs = [sample_heads.graph(HEAD, seed) for seed in (0, 1)]
    done = threading.Event()

    def replace():
        for i in range(1, 60):
            publish(HeadStore(shelf.folder), seed=i % 2, created=float(i))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    last, seen = 0.0, 0
    while not done.is_set():
        kept = shelf.find("birds")
        assert kept.head.created >= last
        last, seen = kept.head.created, seen + 1
        assert shelf.report("birds").head == "birds"
        try:
            assert kept.graph.read_bytes() == graphs[int(kept.head.created) % 2]
        except FileNotFoundError:
            assert shelf.find("birds").stamp != kept.stamp
    writer.join()
    assert seen > 5
    assert shelf.get("birds").created == 59.0


def test_a_numpy_number_is_a_number(shelf):
    publish(shelf, chosen={"l2": np.float32(0.5), "layers": np.int64(2)})
    assert shelf.get("birds").chosen == {"l2": 0.5, "layers": 2}


# A child for each system call of a publication, which dies there; says what a reader sees then, and after a sweep.
KILLER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import sample_heads
from topwork_server.heads.head_store import HeadStore

folder, step = Path(sys.argv[1]), 0
new = sample_heads.head(created=2.0)
graph = sample_heads.graph(new, 1)
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
        sys.addaudithook(die)
        HeadStore(folder).publish(new, graph, None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    shelf = HeadStore(folder)
    seen = [(head.created, shelf.graph(head.name).stat().st_size) for head in shelf.all()]
    shelf.sweep()
    left = sorted(path.name for path in folder.rglob("*") if not path.name.isdecimal())
    print(status, seen, left, seen == [(head.created, shelf.graph(head.name).stat().st_size) for head in shelf.all()])
    if seen and seen[0][0] == 2.0 and status:
        shelf.remove("birds")
        if len(sys.argv) > 2:
            shelf.publish(sample_heads.head(created=1.0), graph, None)
    if not status:
        break
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_a_writer_killed_at_any_step_leaves_the_old_head_or_the_new_one(shelf, replacing):
    if replacing:
        publish(shelf, created=1.0)
    code = KILLER.format(tests=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", code, str(shelf.folder), *["replacing"][: int(replacing)]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) > 8
    assert lines[-1].startswith("0 [(2.0,")
    for line in lines[:-1]:
        assert line.startswith("9 ")
        assert line.endswith("True")
        assert line[2:].startswith(("[(1.0,", "[(2.0,") if replacing else ("[] []", "[(2.0,")), line
        assert ".part" not in line
