"""A set of pictures that is searched by text, and classes that are described by texts: an encoder of two towers, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from cli_command import Command
from PIL import Image
from real_server import ToyEncoders, served
from topwork_server.runtime.export import publish_towers
from toy_towers import COLORS, colors_spec, picture

NAMES = {"rrr": "red", "ggg": "green", "bbb": "blue"}
FILES = [f"{name}{i}.png" for name in NAMES.values() for i in range(3)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, plugins = tmp_path_factory.mktemp("home"), ToyEncoders()
    plugins.specs.append(colors_spec())
    publish_towers(home, colors_spec(), lambda tower: Path())
    with served(home, plugins) as address:
        yield address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for text, name in NAMES.items():
        for i in range(3):
            (folder / f"{name}{i}.png").write_bytes(picture([min(255, part + 20 * i) for part in COLORS[text]]))
    return folder


@pytest.fixture
def client(target: str) -> Iterator[topwork.Client]:
    with topwork.Client(target) as client:
        yield client
        for head in client.heads():
            client.drop_head(head.name)
        for info in client.sets():
            client.drop_set(info.name)


def write(client: topwork.Client, pictures: Path) -> None:
    colors = [{"color": name[:-5]} for name in FILES]
    client.write("paints", [pictures / name for name in FILES], FILES, colors, encoder="colors", keep_inputs=True)


def test_it_says_that_it_reads_both(client: topwork.Client) -> None:
    client.embed("colors", "r")
    info = client.encoder("colors")
    assert (info.modality, info.modalities, info.reads, info.state) == ("image", ("image", "text"), "image and text", "loaded")
    assert [(tower.modality, tower.taps, tower.parameters) for tower in info.towers] == [
        ("image", ("mean", "cells"), 1),
        ("text", ("mean", "letters"), 384),
    ]
    assert all(tower.numerics and tower.numerics.parity > 0.9999 for tower in info.towers)
    assert [option.name for option in info.options] == ["case", "repeat"]


def test_strings_are_texts_and_paths_pictures(client: topwork.Client, pictures: Path) -> None:
    items: list[Any] = ["rrr", pictures / "red0.png", Image.new("RGB", (4, 4), "red"), np.zeros((9, 9, 3), np.uint8), "bbb"]
    found = client.embed("colors", items)
    np.testing.assert_allclose(found.rows[:3].argmax(1), [0, 0, 0])
    np.testing.assert_allclose(found.rows[3:].sum(1), [0, 1.02], atol=1e-3)
    assert client.embed("colors", "rrr").fingerprint == found.fingerprint
    with pytest.raises(topwork.InvalidInput, match="Path") as caught:
        client.embed("colors", ["rrr", str(pictures / "red0.png")])
    assert caught.value.item == 1
    with pytest.raises(topwork.InvalidInput, match="letters"):
        client.embed("colors", [pictures / "red0.png"], tap="letters")


def test_pictures_are_found_by_texts_and_by_pictures(client: topwork.Client, pictures: Path) -> None:
    write(client, pictures)
    info = client.set("paints")
    assert (info.modality, info.reads) == ("image", "image and text")
    for query in ("ggg", pictures / "green1.png"):
        assert {id[:-5] for id in client.search("paints", query, k=3).ids} == {"green"}
    assert [hits.ids[0][:-5] for hits in client.search("paints", ["rrr", pictures / "blue2.png"], k=1)] == ["red", "blue"]
    client.create_index("paints", kind="flat", queries=["rrr", "bbb"])
    assert client.search("paints", "bbb", k=1).ids[0].startswith("blue")


def test_a_set_may_hold_both(client: topwork.Client, pictures: Path) -> None:
    client.write("both", ["rrr", pictures / "red0.png", "bbb"], ["text", "picture", "other"], encoder="colors", keep_inputs=True)
    assert set(client.search("both", pictures / "red1.png", k=2).ids) == {"text", "picture"}
    assert client.read("both", inputs=True).inputs == ["rrr", (pictures / "red0.png").read_bytes(), "bbb"]


def test_classes_are_described_by_texts(client: topwork.Client, pictures: Path) -> None:
    write(client, pictures)
    descriptions = {name: text for text, name in NAMES.items()}
    zero = client.train("paints", name="zero", kind="zero-shot", descriptions=descriptions)
    assert "compare the classes" in zero.warnings[-1]
    with pytest.raises(topwork.NotReady, match=r"from descriptions of its classes.*10 items"):
        client.predict("zero", ["rrr"], unlike=0.1)
    found = client.predict("zero", [pictures / name for name in FILES])
    assert found.labels == [name[:-5] for name in FILES]
    assert client.predict("zero", ["rrr", "bbb"]).labels == ["red", "blue"]
    head = client.train("paints", name="judged", target="color", kind="zero-shot", descriptions=descriptions)
    assert head.metric is not None
    assert (head.metric.name, head.metric.value) == ("accuracy", 1)


@pytest.mark.parametrize(
    ("descriptions", "words"),
    [
        ({"red": "rrr"}, "one class alone"),
        ({"red": "rrr", " ": "ggg"}, "named ' '"),
        ({"red": "rrr", "red ": "ggg"}, "'red' and 'red '"),
        ({"red": "rrr", "blue": "rrr", "green": "ggg"}, "'blue' and 'red' have one description"),
        ({"red": "rrr", "green": " "}, "'green' has a description that is blank"),
        ({"red": "rrr", "blue": "bbb", "ruby": "rrrrrr"}, "'red' and 'ruby' have descriptions that are equal to colors"),
    ],
)
def test_classes_that_no_description_tells_apart_are_refused(
    client: topwork.Client, pictures: Path, descriptions: dict[str, str], words: str
) -> None:
    write(client, pictures)
    with pytest.raises(topwork.InvalidInput, match=words) as caught:
        client.train("paints", name="refused", kind="zero-shot", descriptions=descriptions, wait=False)
    assert caught.value.remedy
    assert client.jobs("train", "refused") == []


def test_the_command_line(target: str, client: topwork.Client, pictures: Path, capsys: Any, monkeypatch: Any) -> None:
    command = Command(target, capsys)
    monkeypatch.setenv("COLUMNS", "160")
    assert command("write", "paints", pictures, "--encoder", "colors") == 0, command.stderr
    assert "9 items" in command.stdout
    hits = command.json("search", "paints", "ggg", pictures / "blue0.png", "-k", 1)
    assert [one["hits"][0]["id"][:-5] for one in hits] == ["green", "blue"]
    assert command("encoders", "colors") == 0
    assert all(word in command.stdout for word in ("image and text", "tower", "letters", "cells"))
    queries = pictures.parent / "queries.txt"
    queries.write_text(f"ggg\n{pictures / 'red0.png'}\n")
    hits = command.json("search", "paints", "--from", queries, "-k", 1)
    assert [one["hits"][0]["id"][:-5] for one in hits] == ["green", "red"]
    assert command("embed", "colors", "rrr", pictures / "nothing.png") != 0
    assert "nothing.png" in command.stderr
    assert command("train", "paints", "--kind", "zero-shot", "--describe=red=rrr", "--describe=red=ggg") == 2
    assert "'red'" in command.stderr
    words = [f"--describe={name}={text}" for text, name in NAMES.items()]
    assert command("train", "paints", "--name", "zero", "--kind", "zero-shot", *words) == 0, command.stderr
    assert command.stdout.splitlines()[-1].startswith("next: `topwork predict zero")
    assert command("predict", "zero", "rrr", pictures / "blue1.png", "--json") == 0, command.stderr
    assert [json.loads(line)["label"] for line in command.stdout.splitlines()] == ["red", "blue"]
