"""Ray Data, on a local cluster of two CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
import topwork
from ray.data import ActorPoolStrategy, DataContext
from topwork.integrations.ray import TopworkBatchEmbedder

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

TEXTS = [letter * length for length in range(1, 9) for letter in "abcdefgh"]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, logging_level="warning", log_to_driver=False)
    DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def embedded(data: Any, actors: int = 1, **settings: Any) -> Any:
    return data.map_batches(
        TopworkBatchEmbedder,
        fn_constructor_kwargs={"encoder": "letters", "column": "text", **settings},
        batch_size=16,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=0.5,
    )


def of_texts(*texts: str) -> Any:
    return ray.data.from_items([{"text": text, "n": i} for i, text in enumerate(texts or TEXTS)])


def test_actors_add_a_column(server: str, client: topwork.Client) -> None:
    found = sorted(embedded(of_texts(), 2, server=server).take_all(), key=lambda row: row["n"])
    assert [row["text"] for row in found] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in found], client.embed("letters", TEXTS).rows, atol=1e-6)
    assert found[0]["embedding"].dtype == np.float32


def test_items_are_documents(server: str, client: topwork.Client) -> None:
    [found] = embedded(of_texts("ab"), server=server, encoder="marked").take_all()
    np.testing.assert_array_equal(found["embedding"], client.embed("marked", ["ab"], options={"prompt": "!"}).rows[0])


def test_the_page_shows_it(shown: Any) -> None:
    assert [row["embedding"].shape for row in shown("ray")["rows"]] == [(8,)] * 3


def test_pictures_are_arrays_and_a_client_goes_to_the_actors(server: str, client: topwork.Client) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    settings = {"encoder": "patches", "column": "data", "output": "row", "server": topwork.Client(server, retry_for=120)}
    found = embedded(ray.data.from_numpy(pictures), **settings).take_batch(5)
    np.testing.assert_allclose(found["row"], client.embed("patches", pictures).rows, atol=1e-6)


def test_bad_items_are_rows_of_nan_where_they_are_skipped(server: str, client: topwork.Client) -> None:
    found = embedded(of_texts("a", "", "bc"), server=server, skip_bad_items=True).take_batch(3)["embedding"]
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"encoder": "nosuch"}, "nosuch"),
        ({"column": "txt"}, "'txt'"),
        ({"fingerprint": "f" * 64}, "fingerprint"),
        ({"server": "127.0.0.1:1"}, "127.0.0.1:1"),
    ],
)
def test_what_is_wrong_ends_the_job(settings: Any, word: str, server: str) -> None:
    with pytest.raises(Exception, match="TopworkBatchEmbedder") as raised:
        embedded(of_texts("a"), **{"server": server, **settings}).materialize()
    assert word in _whole(raised.value)


def _whole(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{getattr(error, 'cause', '')}\n{_whole(error.__cause__)}"
