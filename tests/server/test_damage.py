"""A damaged file costs what it describes and nothing else: the server starts, serves the rest, and names the file."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import homes
import numpy as np
import pytest
import sets_harness
import topwork
from homes import TEXTS, lost, serving
from topwork import cli
from topwork_server.commands.doctor_checks import Grade
from topwork_server.commands.doctor_files import files
from topwork_server.feature_sets import lance_layout
from topwork_server.feature_sets.scrub import ChecksumScrub
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.models.catalog import Catalog


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole") / "home"
    homes.fill(home)
    return home


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_types(path: Path) -> None:
    """Valid JSON, each value of another type; bytes that are no JSON are turned around."""
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        path.write_bytes(path.read_bytes()[::-1])
    else:
        path.write_text(json.dumps({key: [key] if isinstance(value, str) else str(value) for key, value in record.items()}))


def another_digit(path: Path) -> None:
    """One bit, in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "list": lambda path: path.write_text("[]"),
    "number in a list": lambda path: path.write_text("[1]"),
    "open": lambda path: path.write_text('{"a": ['),
    "deep": lambda path: path.write_text("[" * 100_000),
    "another record": lambda path: path.write_text('{"name": "x"}'),
    "other types": other_types,
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(300)),
    "a bit": another_digit,
    "gone": Path.unlink,
    "a folder": folder_instead,
}
#: A file takes a quarter of them here, in turn, and all of them where $TOPWORK_DAMAGES is "all".
TURNS = 1 if os.environ.get("TOPWORK_DAMAGES") == "all" else 4


#: Each kind of file; what may be missing from the lists where it is damaged; whether the log or the doctor names it.
FILES = [
    ("artifacts/letters-*/manifest.json", set(), True),
    ("artifacts/letters-*/model.onnx", set(), False),  # read at the first use
    ("artifacts/letters-*/parity.npz", set(), False),
    ("encoders/pulled.json", {"pulled"}, True),
    ("heads/kinds/*/head.json", set(), True),
    ("heads/kinds/*/head.onnx", set(), True),
    ("heads/kinds/*/report.json", set(), True),
    ("indexes/birds/mean/definition.json", set(), True),
    ("indexes/birds/mean/builds/1/facts.json", set(), True),
    ("indexes/birds/mean/builds/1/index.bin", set(), True),
    ("indexes/birds/mean/builds/1/keys.npy", set(), True),
    ("jobs/*.json", {"a job"}, True),
    ("trainings/kinds.json", set(), True),
    ("cache/features.sqlite", set(), False),
    ("sets/birds.lance/_checksums", set(), True),
    (f"sets/birds.lance/{lance_layout.tag_file('first')}", set(), True),
    ("sets/birds.lance/_versions/latest_version_hint.json", set(), False),
    ("sets/birds.lance/_transactions/*", set(), False),
    (f"sets/birds.lance/{lance_layout.manifest_name(1)}", set(), True),
    ("server.lock", set(), False),
]


def seen(client: topwork.Client) -> set[str]:
    """What a client finds in every list; and a set that is whole is read."""
    assert client.read("fish").ids == ["a", "b", "c", "d"]
    return {
        *(encoder.name for encoder in client.encoders()),
        *(one.name for one in client.sets()),
        *(head.name for head in client.heads()),
        *(f"{index.set}/{index.name}" for index in client.indexes()),
        *("a job" for _ in client.jobs()[1:]),  # there are two
    }


ALL = {"letters", "second", "pulled", "birds", "fish", "kinds", "birds/mean", "a job"}


@pytest.mark.parametrize(("pattern", "costs", "named"), FILES, ids=[one[0] for one in FILES])
def test_a_damaged_file_costs_what_it_describes(
    pattern: str, costs: set[str], named: bool, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turn = [one[0] for one in FILES].index(pattern)
    for how, damage in [*DAMAGES.items()][turn % TURNS :: TURNS]:
        home = homes.copied(whole, tmp_path / "home")
        path = sorted(home.glob(pattern))[0]
        damage(path)
        caplog.clear()
        found = files(home)
        with caplog.at_level(logging.WARNING), homes.served(home) as client:
            assert seen(client) >= ALL - costs, how
            if "birds/mean" not in costs:
                [hits] = client.search("birds", vectors=np.ones((1, 8), np.float32), k=3)
                assert len(hits.ids) == 3, how
        if named and how not in ("gone", "a folder"):
            assert str(path.parent) in caplog.text + found.detail, how
            assert found.grade is not Grade.OK, how


def test_an_encoder_whose_record_is_damaged_can_be_forgotten(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ("empty", "number in a list", "another record", "a folder"):
        damage = DAMAGES[how]
        home = homes.copied(whole, tmp_path / "home")
        with homes.served(home) as client:
            damage(home / "encoders" / "pulled.json")
            assert [encoder.name for encoder in client.encoders()] == ["letters", "second"], how
            assert [head.name for head in client.heads()] == ["kinds"], how
            with pytest.raises(topwork.DataLoss, match=r"pulled\.json") as caught:
                client.encoder("pulled")
            assert "topwork forget pulled" in caught.value.remedy
        for verb in (["prune", "--dry-run"], ["forget", "pulled", "--yes"]):
            assert cli.main([*verb, "--json", "--home", str(home)]) == 0, (how, verb)
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"forgotten": "pulled"}
        assert not (home / "encoders" / "pulled.json").exists()
        shutil.rmtree(home)


def test_a_damaged_cache_gives_no_other_features(exported: Path, tmp_path: Path) -> None:
    """Rows under each other's keys, then single bits everywhere: each is a miss, and what is written is right."""
    home = sets_harness.lent(tmp_path / "home", exported)
    texts = [f"text {'abcdefgh'[i]}" for i in range(8)]
    with homes.served(home) as client:
        client.write("first", texts, texts, encoder="letters")
        right = np.asarray(client.embed("letters", texts))
    cache = home / "cache" / "features.sqlite"
    with sqlite3.connect(cache) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM features").fetchall()]
        values = [value for (value,) in connection.execute("SELECT value FROM features").fetchall()]
        assert len(keys) == 8
        for key, value in zip(keys, values[1:] + values[:1], strict=True):
            connection.execute("UPDATE features SET value = ? WHERE key = ?", (value, key))
    connection.close()
    kept = cache.read_bytes()
    for turn in range(12):
        data = bytearray(kept)
        if turn:  # the first is but swapped
            for at in np.random.default_rng(turn).integers(0, len(data), 20):
                data[at] ^= 1 << (turn % 8)
        cache.write_bytes(data)
        with homes.served(home) as client:
            client.write(f"again-{turn}", texts, texts, encoder="letters")
            rows = client.read(f"again-{turn}")
            np.testing.assert_array_equal(np.asarray(rows.features["mean"])[np.argsort(rows.ids)], right)


def damage(client: topwork.Client, name: str) -> str:
    return next(one.damage for one in client.sets() if one.name == name)


#: Files of the newest version of `birds`, and whether the version before it reads none of them.
NEWEST = [(lance_layout.manifest_name(5), True), ("_deletions/*.arrow", True), ("data/*.lance", False)]


@pytest.mark.parametrize(("pattern", "older"), NEWEST, ids=[one[0] for one in NEWEST])
@pytest.mark.parametrize("how", ["a bit", "gone", "cut"])
def test_a_damaged_set_fails_alone_and_what_is_whole_of_it_is_read(
    how: str, pattern: str, older: bool, whole: Path, tmp_path: Path
) -> None:
    home = homes.copied(whole, tmp_path / "home")
    [path] = (home / "sets" / "birds.lance").glob(pattern)
    kept = path.read_bytes()
    DAMAGES[how](path)
    with homes.served(home) as client:
        assert path.name in str(lost(lambda: client.read("birds")))
        lost(lambda: client.delete("birds", ids=["b1"]))
        lost(lambda: client.write("birds", TEXTS[:1], ["new"], encoder="letters"))
        assert path.name in damage(client, "birds")
        assert not serving(client, "set/birds")
        assert damage(client, "fish") == ""
        assert client.read("fish").ids == ["a", "b", "c", "d"]
        assert serving(client, "set/fish")
        assert [version.version for version in client.versions("birds")][:4] == [1, 2, 3, 4]
        if older:
            assert len(client.read("birds", version=4).ids) == 24
        else:
            lost(lambda: client.read("birds", version=4))
        found = files(home)
        assert found.grade is Grade.FAIL
        assert path.name in found.detail or how == "gone"
    path.write_bytes(kept)
    with homes.served(home) as client:
        assert len(client.read("birds").ids) == 23
        assert serving(client, "set/birds")


def test_a_file_that_is_damaged_under_a_server_is_found_by_the_next_read(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    [path] = (home / "sets" / "birds.lance" / "data").glob("*.lance")
    kept = path.read_bytes()
    with homes.served(home) as client:
        assert len(client.read("birds").ids) == 23
        another_digit(path)
        assert path.name in str(lost(lambda: client.read("birds")))
        path.write_bytes(kept)
        assert len(client.read("birds").ids) == 23


def test_no_bit_of_a_data_file_gives_other_rows(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    [path] = (home / "sets" / "birds.lance" / "data").glob("*.lance")
    kept = path.read_bytes()
    with homes.served(home) as client:
        for at in np.random.default_rng(0).integers(0, len(kept), 40).tolist():
            path.write_bytes(kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :])
            lost(lambda: client.read("birds"))


def test_a_set_without_checksums_is_read_by_another_process_first(whole: Path, tmp_path: Path) -> None:
    """As an older server left it: Lance may abort on what is damaged, and not in the process that serves."""
    home = homes.copied(whole, tmp_path / "home")
    folder = home / "sets" / "birds.lance"
    (folder / "_checksums").unlink()
    with homes.served(home) as client:
        assert len(client.read("birds").ids) == 23
    assert path_lines(folder) >= {"data", "_deletions", "_versions", "_refs"}
    (folder / "_checksums").unlink()
    [path] = (folder / "_deletions").iterdir()
    data = bytearray(path.read_bytes())
    data[8:200] = b"\x7f" * 192
    path.write_bytes(data)
    with homes.served(home) as client:
        lost(lambda: client.read("birds"))
        assert len(client.read("birds", version=4).ids) == 24
        assert client.read("fish").ids == ["a", "b", "c", "d"]


def path_lines(folder: Path) -> set[str]:
    """The folders whose files have checksums."""
    return {line.split()[1].partition("/")[0] for line in (folder / "_checksums").read_text().splitlines()}


def test_a_commit_whose_server_was_killed_before_its_checksum_is_kept(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    log = home / "sets" / "birds.lance" / "_checksums"
    kept = log.read_bytes()
    with homes.served(home) as client:
        client.write("birds", TEXTS[:2], ["new", "newer"], encoder="letters")
    log.write_bytes(kept)
    with homes.served(home) as client:
        assert {"new", "newer"} <= set(client.read("birds").ids)
        assert damage(client, "birds") == ""


def test_a_commit_that_was_torn_by_a_power_cut_is_set_aside(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    (home / "sets" / "birds.lance" / lance_layout.manifest_name(6)).write_bytes(b"")
    with homes.served(home) as client:
        assert len(client.read("birds").ids) == 23
        client.write("birds", TEXTS[:2], ["new", "newer"], encoder="letters")
        assert len(client.read("birds").ids) == 25


def test_the_scrub_finds_what_no_time_of_a_file_tells(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    sets = FeatureSets(home / "sets")
    scrub = ChecksumScrub(sets, lambda: False)
    scrub.check_all()
    assert sets.damage("birds") == ""
    [path] = (home / "sets" / "birds.lance" / "data").glob("*.lance")
    status = path.stat()
    another_digit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    scrub.check_all()
    assert path.name in sets.damage("birds")
    sets.close()


def test_a_newest_version_that_is_gone_is_not_forgotten_by_a_pruning(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    newest = home / "sets" / "birds.lance" / lance_layout.manifest_name(5)
    with homes.served(home) as client:
        assert len(client.read("birds").ids) == 23
        newest.unlink()
        lost(lambda: client.prune("birds", 0))
    with homes.served(home) as client:
        assert newest.name in str(lost(lambda: client.read("birds")))


def test_the_doctor_compares_what_was_made_here(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    tuned = tmp_path / "tuned.safetensors"
    tuned.write_bytes(b"weights")
    Catalog(homes.plugins(), home).add_fine_tuned("mine", "letters", tuned, "mean", "words")  # type: ignore[arg-type]
    assert files(home).grade is Grade.OK
    another_digit(home / "encoders" / "mine.safetensors")
    assert "mine.safetensors" in files(home).detail


def test_a_file_where_a_folder_belongs_is_named_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sets").write_bytes(b"")
    command = ["serve", "--json", "--listen", "127.0.0.1:0", "--provider", "cpu", "--home", str(tmp_path)]
    assert cli.main(command) == 2
    assert str(tmp_path / "sets") in json.loads(capsys.readouterr().out.splitlines()[-1])["message"]
