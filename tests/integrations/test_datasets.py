"""HF datasets: columns of texts, pictures and recordings, and the cache."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import topwork
from datasets.fingerprint import Hasher
from PIL import Image
from topwork.integrations._columns import item_of
from topwork.integrations.datasets import TopworkEmbedder

TEXTS = ["abc", "de", "f", "gh"]


@pytest.fixture(autouse=True)
def usual_server(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    datasets.disable_progress_bars()


def of_texts(*texts: str | None) -> Any:
    return datasets.Dataset.from_dict({"text": list(texts or TEXTS)})


def test_texts_become_lists_of_one_length(client: topwork.Client) -> None:
    data, embedder = of_texts(), TopworkEmbedder("letters", "text")
    found = data.map(embedder, batched=True, batch_size=3, features=embedder.features(data))
    expected = client.embed("letters", TEXTS)
    assert found.features["embedding"] == datasets.List(datasets.Value("float32"), length=8)
    assert found["text"][:] == TEXTS
    np.testing.assert_array_equal(found.with_format("numpy")[:]["embedding"], expected.rows)
    assert embedder.fingerprint == expected.fingerprint
    streamed = data.to_iterable_dataset().map(embedder, batched=True, batch_size=3)
    np.testing.assert_array_equal([item["embedding"] for item in streamed], expected.rows)


def test_the_page_shows_it(shown: Any) -> None:
    assert shown("datasets")["data"].features["embedding"].length == 8


def test_settings_and_two_processes(client: topwork.Client) -> None:
    data = of_texts()
    settings: dict[str, Any] = {"options": {"case": "lower"}, "normalize": True, "dimensions": 3}
    embedder = TopworkEmbedder("letters", "text", output="row", **settings)
    found = data.map(embedder, batched=True, features=embedder.features(data), num_proc=2)
    assert found.features["row"].length == 3
    np.testing.assert_allclose(found["row"][:], client.embed("letters", TEXTS, **settings).rows, atol=1e-6)


def test_items_are_documents_unless_another_role_is_named(client: topwork.Client) -> None:
    data = of_texts("ab")
    for role, mark in (("document", "!"), ("query", "?"), (None, "*")):
        embedder = TopworkEmbedder("marked", "text", **({} if role == "document" else {"role": role}))
        expected = client.embed("marked", ["ab"], options={"prompt": mark}).rows
        np.testing.assert_array_equal(data.map(embedder, batched=True)["embedding"][:], expected)


def test_pictures_come_decoded_and_not(client: topwork.Client, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, seed in zip(paths, (0, 1), strict=True):
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(path)
    expected = client.embed("patches", paths).rows
    strings = datasets.Dataset.from_dict({"image": list(map(str, paths))})
    for data in (
        strings,
        strings.cast_column("image", datasets.Image()),
        strings.cast_column("image", datasets.Image(decode=False)),
        datasets.Dataset.from_dict({"image": [path.read_bytes() for path in paths]}),
    ):
        found = data.map(TopworkEmbedder("patches", "image"), batched=True)
        np.testing.assert_allclose(found["embedding"][:], expected, atol=1e-6)


def test_recordings_are_samples_or_files() -> None:
    samples, rate = item_of({"path": None, "array": np.ones((2, 4)), "sampling_rate": 16000})
    assert (samples.tolist(), samples.dtype, rate) == ([1, 1, 1, 1], np.float32, 16000)
    assert item_of({"path": "a.wav", "bytes": b"RIFF"}) == b"RIFF"
    assert item_of({"path": "a.wav", "bytes": None}) == Path("a.wav")

    class Decoder:
        """A decoder as torchcodec's, which needs FFmpeg."""

        class Samples:
            data, sample_rate = np.float32([[0, 1], [1, 0]]), 8000

        def get_all_samples(self) -> Any:
            return self.Samples

    samples, rate = item_of(Decoder())
    assert (samples.tolist(), rate) == ([0.5, 0.5], 8000)


def test_the_cache_finds_what_this_encoder_embedded_and_nothing_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = TopworkEmbedder("letters", "text"), TopworkEmbedder("letters", "text")
    assert Hasher.hash(first) == Hasher.hash(again) == Hasher.hash(pickle.loads(pickle.dumps(first)))
    data = of_texts()
    assert data.map(first, batched=True)._fingerprint == data.map(again, batched=True)._fingerprint
    assert Hasher.hash(first) == Hasher.hash(again), "a use must not change it"
    others = [
        TopworkEmbedder("numbers", "text"),
        TopworkEmbedder("letters", "text", dimensions=3),
        TopworkEmbedder("letters", "text", options={"case": "lower"}),
    ]
    assert len({Hasher.hash(one) for one in [first, *others]}) == 4
    changed = TopworkEmbedder("letters", "text")
    changed._remote.fingerprint = "f" * 64  # as if the server had another encoder under that name
    assert Hasher.hash(changed) != Hasher.hash(first)
    with pytest.raises(topwork.NotReady, match="fingerprint"):
        data.map(changed, batched=True)


def test_bad_items_end_the_map_unless_they_are_skipped(client: topwork.Client) -> None:
    data = of_texts("abc", "", "f")
    with pytest.raises(topwork.InvalidInput, match=r"item 1.*empty") as raised:
        data.map(TopworkEmbedder("letters", "text"), batched=True)
    assert raised.value.item == 1
    embedder = TopworkEmbedder("letters", "text", skip_bad_items=True)
    found = data.map(embedder, batched=True, features=embedder.features(data))["embedding"][:]
    assert found[1] is None
    np.testing.assert_allclose([found[0], found[2]], client.embed("letters", ["abc", "f"]).rows, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"encoder": "nosuch"}, topwork.NotFound, "nosuch"),
        ({"tap": "nosuch"}, topwork.InvalidInput, "nosuch"),
        ({"tap": "letters"}, topwork.InvalidInput, "token"),
        ({"column": "txt"}, topwork.InvalidInput, "'txt'.*'text'"),
        ({"fingerprint": "f" * 64}, topwork.NotReady, "fingerprint"),
        ({"server": "127.0.0.1:1"}, topwork.Unavailable, "127.0.0.1:1"),
    ],
)
def test_what_is_wrong_is_told(settings: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        of_texts().map(TopworkEmbedder(**{"encoder": "letters", "column": "text", **settings}), batched=True)


def test_a_column_that_is_there_is_not_declared_again() -> None:
    with pytest.raises(topwork.InvalidInput, match="text"):
        TopworkEmbedder("letters", "text", output="text").features(of_texts())
