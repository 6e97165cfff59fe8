"""The client's README runs, on the fake server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer

README = Path(__file__).parents[2] / "clients/python/README.md"
#: What the fake server has instead of what is shown; longer names first.
NAMES = {
    "i3d-resnet50-thin": "clips",
    "resnet50-thin": "pictures",
    "efficientnet-lite0": "pictures",
    "all-minilm-l6-v2": "letters",
    "bert-base-uncased": "letters",
    "glove-6b-50d": "words",
    "wav2vec2-base": "sounds",
    '"layer3"': '"tokens"',
    "!= 'owl'": "= 'n2'",
}


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_shown_runs(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [Path(f"n{i}.jpg") for i in range(3)]
    for path in [*paths, Path("clip.mp4"), Path("speech.flac")]:
        path.write_bytes(path.name.encode())
    block = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)[number]
    for name, fake in NAMES.items():
        block = block.replace(name, fake)
    marks: list[int] = []
    kept: list[Any] = []
    found: dict[str, Any] = {
        "paths": paths,
        "samples": np.zeros(16_000, np.float32),
        "endless_lines": lambda: map(str, range(300)),
        "endless_ids": lambda: iter(range(300)),
        "checkpoint": marks.append,
        "store": lambda *values: kept.append(values),
    }
    exec(block.replace("127.0.0.1:50051", server.target).replace("f.of(0)", "f.of(-1)"), found)
    if number == 0:
        assert [start for start, _ in kept] == [0, 64, 128, 192, 256]
        assert Path("photos.parquet").exists()
        return
    assert [hit.id for hit in found["hits"]] == found["hits"].ids
    assert found["stored"].ids == ["n2.jpg"]
    assert "n1.jpg" in capsys.readouterr().out
    assert marks == [128, 256, 300]
    assert sum(len(ids) for ids, _ in kept) == 300
    assert set(server.sets.sets) == {"birds", "mine", "lines"}
