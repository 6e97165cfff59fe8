"""The typicality of rows: a p-value of new ones, small for others."""

from __future__ import annotations

import numpy as np
import onnxruntime
from topwork_server.heads.typicality import typicality_graph
from topwork_server.types import Array


def ran(graph: bytes, rows: Array) -> Array:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    [found] = session.run(["typicality"], {"rows": rows.astype(np.float32)})
    return np.asarray(found)


def cloud(count: int, seed: int, offset: float = 0.0) -> Array:
    random = np.random.default_rng(seed)
    return np.asarray(random.normal(size=(count, 16)) * np.linspace(3, 0.3, 16) + offset, np.float32)


def test_it_is_uniform_for_new_rows_and_small_for_others() -> None:
    graph = typicality_graph(cloud(400, 0), np.arange(400), 0)
    like, unlike = ran(graph, cloud(3000, 1)), ran(graph, np.random.default_rng(2).normal(size=(500, 16)))
    assert 0 < like.min() <= like.max() <= 1
    for share in (0.05, 0.2, 0.5, 0.9):
        assert abs((like <= share).mean() - share) < 0.06
    assert (unlike <= 0.05).mean() > 0.4


def test_copies_of_training_rows_do_not_make_new_ones_strange() -> None:
    once = cloud(300, 0)
    twice = typicality_graph(np.concatenate([once, once]), np.tile(np.arange(300), 2), 0)
    assert abs((ran(twice, cloud(2000, 1)) <= 0.1).mean() - 0.1) < 0.06


def test_it_does_not_depend_on_the_batch() -> None:
    graph, rows = typicality_graph(cloud(2500, 0), np.arange(2500), 0), cloud(40, 1)
    np.testing.assert_array_equal(ran(graph, rows), np.concatenate([ran(graph, row[None]) for row in rows]))


def test_too_few_groups_and_single_numbers_have_none() -> None:
    assert typicality_graph(cloud(40, 0), np.arange(40) % 9, 0) == b""
    assert typicality_graph(cloud(40, 0)[:, :1], np.arange(40), 0) == b""
