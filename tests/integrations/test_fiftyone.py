"""FiftyOne's models and its Brain, with a database that speaks MongoDB's protocol: `colors` reads pictures and texts."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import create_connection, create_server
from typing import Any

import numpy as np
import pytest
import topwork
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore")  # FiftyOne's own

COLORS = {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250)}
PICTURES = [f"{name}{i}" for name in COLORS for i in range(4)]
ALIKE, NOT_THERE = 0.002, "0" * 24


@pytest.fixture(scope="module", autouse=True)
def database(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FiftyOne's own needs a mongod that is downloaded; this one is a package. FiftyOne is imported where it is used: it reads
    its settings then."""
    with closing(create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("fiftyone")
    command = [sys.executable, "-m", "secantus", "--host", "127.0.0.1", "--port", str(port), "--storage-path", ":memory:"]
    with (
        pytest.MonkeyPatch.context() as patch,
        (folder / "log").open("w") as log,
        subprocess.Popen([*command, "--cache-size", "128M"], stdout=log, stderr=log, cwd=folder) as process,
    ):
        for name, value in {
            "HOME": str(folder),
            "FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}/?directConnection=true",
            "FIFTYONE_DATABASE_NAME": "tests",
            "FIFTYONE_DO_NOT_TRACK": "true",
            "FIFTYONE_BRAIN_SIMILARITY_BACKENDS": "*,topwork",
            "FIFTYONE_BRAIN_SIMILARITY_TOPWORK_CONFIG_CLS": "topwork.integrations.fiftyone.TopworkSimilarityConfig",
            "TOPWORK_SERVER": server,
        }.items():
            patch.setenv(name, value)
        _await_listener(port, process, folder / "log")
        yield
        process.terminate()


def _await_listener(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pictures")
    for name in PICTURES:
        shade = tuple(min(255, part + 12 * int(name[-1])) for part in COLORS[name[:-1]])
        Image.new("RGB", (16, 16), shade).save(found / f"{name}.png")
    return found


@pytest.fixture
def dataset(folder: Path, client: topwork.Client) -> Iterator[Any]:
    import fiftyone as fo

    def patches() -> Any:
        boxes = [("left", [0, 0, 0.5, 1]), ("right", [0.5, 0, 0.5, 1])]
        return fo.Detections(detections=[fo.Detection(label=label, bounding_box=box) for label, box in boxes])

    found = fo.Dataset("Paints and colors", overwrite=True)
    samples = [fo.Sample(filepath=str(folder / f"{name}.png"), name=name, objects=patches()) for name in PICTURES]
    found.add_samples(samples, progress=False)
    yield found
    found.delete()
    for info in client.sets():
        client.drop_set(info.name)


def model(encoder: str = "colors", **settings: Any) -> Any:
    from topwork.integrations.fiftyone import TopworkModel

    return TopworkModel(encoder, **settings)


def index_of(dataset: Any, brain_key: str = "near", **settings: Any) -> Any:
    import fiftyone.brain as fob

    settings = {"model": model(), "backend": "topwork", **settings}
    return fob.compute_similarity(dataset, brain_key=brain_key, progress=False, **settings)


def ids_of(dataset: Any) -> dict[str, str]:
    return dict(zip(dataset.values("name"), dataset.values("id"), strict=True))


def test_a_model_embeds_samples_and_patches_as_the_sdk_does(dataset: Any, folder: Path, client: topwork.Client) -> None:
    expected = client.embed("colors", [folder / f"{name}.png" for name in PICTURES]).rows
    for batch_size in (None, 5):
        found = dataset.compute_embeddings(model(), batch_size=batch_size, progress=False)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    dataset.compute_embeddings(model(normalize=True), embeddings_field="row", batch_size=5, progress=False)
    np.testing.assert_allclose(np.linalg.norm(dataset.values("row"), axis=1), 1, atol=1e-6)
    patches = dataset.compute_patch_embeddings(model(), "objects", progress=False)
    assert {rows.shape for rows in patches.values()} == {(2, 3)}


def test_the_page_shows_it(shown: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    found = shown("fiftyone")
    names = [Path(path).stem for path in found["view"].values("filepath")]
    assert (len(names), names[0][:3]) == (5, "red")
    found["dataset"].load_brain_results("near").cleanup()
    found["dataset"].delete()


def test_a_model_takes_gray_pictures_prompts_and_goes_to_other_processes(client: topwork.Client) -> None:
    from topwork.integrations.fiftyone.model import item_of

    found = pickle.loads(pickle.dumps(model()))
    np.testing.assert_array_equal(found.embed(np.full((8, 8), 255, np.uint8)), [1, 1, 1])
    np.testing.assert_array_equal(found.embed(np.full((8, 8, 4), 255, np.uint8)), [1, 1, 1])
    np.testing.assert_array_equal(found.get_embeddings(), [[1, 1, 1]])
    np.testing.assert_array_equal(found.embed_prompts(["r", "g"]), client.embed("colors", ["r", "g"]).rows)
    assert (found.media_type, found.can_embed_prompts, model("patches").can_embed_prompts) == ("image", True, False)

    class Reader:
        """A reader as ETA's of videos, which needs FFmpeg."""

        inpath = "clip.mp4"

    assert item_of(Reader()) == Path("clip.mp4")
    with pytest.raises(topwork.InvalidInput, match="reads no texts"):
        model("patches").embed_prompt("r")


@pytest.mark.parametrize(
    ("encoder", "settings", "error", "word"),
    [
        ("nosuch", {}, topwork.NotFound, "nosuch"),
        ("letters", {}, topwork.InvalidInput, "reads text"),
        ("colors", {"server": "127.0.0.1:1"}, topwork.Unavailable, "127.0.0.1:1"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_sample(
    encoder: str, settings: Any, error: type[Exception], word: str, dataset: Any
) -> None:
    with pytest.raises(error, match=word):
        dataset.compute_embeddings(model(encoder, **settings), progress=False)


def test_samples_are_sorted_by_ids_vectors_and_prompts(dataset: Any, client: topwork.Client) -> None:
    index, ids = index_of(dataset), ids_of(dataset)
    info = client.set(index.config.set_name)
    assert (info.name, info.items, info.encoder) == ("fiftyone-paints-and-colors-near", 12, "colors")
    assert client.search(info.name, "b", k=1).ids == [ids["blue0"]]

    def near(query: Any, view: Any = dataset, **settings: Any) -> Any:
        return view.sort_by_similarity(query, brain_key="near", **settings).values("name")

    assert near(ids["green0"], k=4) == ["green0", "green1", "green2", "green3"]
    assert near(np.array([0.0, 0, 1]), k=2) == ["blue0", "blue1"]
    assert set(near([ids["red0"], ids["blue0"]], k=4)) == {"red3", "blue3", "red2", "blue2"}
    assert near("rrr", k=2) == ["red0", "red1"]
    assert near(["rrr", "r"], k=2) == ["red0", "red1"]
    assert near("ggg")[:4] == ["green0", "green1", "green2", "green3"]
    assert set(near("ggg", reverse=True, k=2)) == {"red0", "blue0"}
    view = dataset.select([ids["red1"], ids["blue2"], ids["blue3"]])
    assert near("bbb", view) == ["blue2", "blue3", "red1"]
    assert near("bbb", view, k=1) == ["blue2"]


@pytest.mark.parametrize("metric", ["cosine", "dotproduct", "euclidean"])
def test_distances_are_smaller_where_samples_are_nearer(metric: str, dataset: Any) -> None:
    index_of(dataset, metric=metric)
    query, rows = np.array([0.0, 0.1, 1]), dataset.compute_embeddings(model(), progress=False)
    cosine = 1 - rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    expected = {"cosine": cosine, "dotproduct": -rows @ query, "euclidean": np.linalg.norm(rows - query, axis=1)}[metric]
    dataset.sort_by_similarity(query, brain_key="near", dist_field="distance")
    np.testing.assert_allclose(dataset.values("distance"), expected, atol=1e-5)
    if metric != "euclidean":
        found = dataset.sort_by_similarity(query, brain_key="near", dist_field="distance", reverse=True)
        np.testing.assert_allclose(dataset.values("distance"), expected, atol=1e-5)
        assert found.values("distance") == sorted(dataset.values("distance"), reverse=True)


def test_large_views_are_looked_through_page_by_page(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from topwork.integrations.fiftyone import neighbors

    index_of(dataset)
    ids, whole = ids_of(dataset), dataset.sort_by_similarity("r", brain_key="near").values("name")
    view = dataset.select([ids[name] for name in ("red3", "green1", "blue0", "blue2")])
    expected = view.sort_by_similarity("r", brain_key="near").values("name")
    monkeypatch.setattr(neighbors, "MOST_HITS", 5)
    monkeypatch.setattr(neighbors, "MOST_FILTERED", 1)
    assert dataset.sort_by_similarity("r", brain_key="near").values("name") == whole
    assert dataset.sort_by_similarity("r", brain_key="near", k=7).values("name") == whole[:7]
    assert view.sort_by_similarity("r", brain_key="near").values("name") == expected
    assert view.sort_by_similarity("r", brain_key="near", k=3).values("name") == expected[:3]


def test_a_later_session_finds_the_index_and_asks_by_prompts(dataset: Any, server: str) -> None:
    import fiftyone as fo

    index_of(dataset, model=model(server=server))
    stored = fo.load_dataset(dataset.name).get_brain_info("near").config
    assert (stored.method, stored.encoder, stored.supports_prompts) == ("topwork", "colors", True)
    assert server not in str(stored.serialize())
    again = dataset.load_brain_results("near", cache=False)
    assert again.sort_by_similarity("bbb", k=2).values("name") == ["blue0", "blue1"]


def test_duplicates_and_unique_samples(dataset: Any) -> None:
    index = index_of(dataset)
    index.find_duplicates(thresh=ALIKE)
    name_of = {id: name for name, id in ids_of(dataset).items()}
    rows = dict(zip(dataset.values("id"), dataset.compute_embeddings(model(normalize=True), progress=False), strict=True))
    unique = [rows[id] for id in index.unique_ids]
    assert max(a @ b for i, a in enumerate(unique) for b in unique[:i]) < 1 - ALIKE
    assert len(index.unique_ids) + len(index.duplicate_ids) == len(PICTURES)
    index.find_unique(3)
    assert {name_of[id][:-1] for id in index.unique_ids} == set(COLORS)
    with index.use_view(dataset.select(list(index.unique_ids))):
        inds, _ = index._kneighbors(k=1, return_dists=True)
        assert [len(one) for one in inds] == [1, 1, 1]
        assert all(inds[i][0] != i for i in range(3))


def test_embeddings_are_added_got_and_removed(dataset: Any, client: topwork.Client) -> None:
    index, ids = index_of(dataset), ids_of(dataset)
    rows, samples, labels = index.get_embeddings([ids["red0"], ids["blue0"]])
    assert (rows.shape, set(samples), labels) == ((2, 3), {ids["red0"], ids["blue0"]}, None)
    index.remove_from_index([ids["red0"]])
    assert (index.total_index_size, index.index_size) == (11, 11)
    rows, samples, _ = index.compute_embeddings(dataset, skip_existing=True, progress=False)
    assert list(samples) == [ids["red0"]]
    index.add_to_index(rows, samples)
    assert index.total_index_size == 12
    index.add_to_index(rows + 1, samples, overwrite=False)
    np.testing.assert_array_equal(index.get_embeddings(ids["red0"])[0], rows)
    index.add_to_index(rows + 1, samples)
    np.testing.assert_array_equal(index.get_embeddings(ids["red0"])[0], rows + 1)
    assert len(index.get_embeddings()[1]) == 12
    index.cleanup()
    index.cleanup()
    assert index.total_index_size == 0
    assert index.sort_by_similarity("r", k=3).values("name") == []


@pytest.mark.parametrize(
    ("work", "word"),
    [
        (lambda index, one: index.add_to_index(np.zeros((1, 3)), [one], overwrite=False, allow_existing=False), "already exist"),
        (lambda index, one: index.remove_from_index([NOT_THERE], allow_missing=False), "do not exist"),
        (lambda index, one: index.get_embeddings([NOT_THERE], allow_missing=False), "do not exist"),
        (lambda index, one: index.get_embeddings(label_ids=[one]), "label IDs"),
        (lambda index, one: index.sort_by_similarity(NOT_THERE, k=1), NOT_THERE),
        (lambda index, one: index.sort_by_similarity(np.zeros(2), k=1), "3"),
        (lambda index, one: index.add_to_index(np.zeros((1, 5)), [NOT_THERE]), "5"),
    ],
)
def test_what_an_index_cannot_do_is_told(work: Any, word: str, dataset: Any) -> None:
    index = index_of(dataset)
    with pytest.raises(ValueError, match=word):
        work(index, dataset.first().id)


def test_patches_have_ids_of_labels_and_of_their_samples(dataset: Any) -> None:
    index = index_of(dataset, patches_field="objects", metric="euclidean", brain_key="patches")
    patches, ids = dataset.to_patches("objects"), ids_of(dataset)
    assert (index.total_index_size, index.index_size) == (24, 24)
    label = dataset[ids["green0"]].objects.detections[1].id
    found = patches.sort_by_similarity(label, brain_key="patches", k=2)
    assert {Path(path).stem for path in found.values("filepath")} == {"green0"}
    assert dataset.sort_by_similarity(label, brain_key="patches", k=3).values("name") == ["green0", "green1"]
    rows, samples, labels = index.get_embeddings(sample_ids=[ids["red0"]])
    assert (rows.shape, list(samples), len(labels)) == ((2, 3), [ids["red0"]] * 2, 2)
    index.remove_from_index(sample_ids=[ids["red0"]])
    index.remove_from_index(label_ids=[label])
    assert index.total_index_size == 21
    with pytest.raises(ValueError, match="Euclidean"):
        index.sort_by_similarity(label, reverse=True)


def test_a_set_may_have_an_index_and_be_of_no_encoder(dataset: Any, client: topwork.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(len(dataset), 7))
    index = index_of(dataset, model=None, embeddings=rows, set_name="mine", index_kind="hnsw", metric="dotproduct")
    assert [found.kind for found in client.indexes("mine")] == ["hnsw"]
    assert client.set("mine").encoder == ""
    assert not index.supports_prompts
    assert index.sort_by_similarity(rows[4], k=1).values("id") == [dataset.values("id")[int(np.argmax(rows @ rows[4]))]]
    with pytest.raises(ValueError, match="prompts"):
        index.sort_by_similarity("red")


def test_settings_that_there_are_not_are_refused(dataset: Any) -> None:
    with pytest.raises(ValueError, match="hamming"):
        index_of(dataset, metric="hamming")
    with pytest.raises(topwork.Unavailable, match=r"127\.0\.0\.1:1"):
        index_of(dataset, model=None, embeddings=np.zeros((12, 3)), server="127.0.0.1:1")
