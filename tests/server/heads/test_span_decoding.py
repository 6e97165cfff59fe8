"""Spans of rows from classes and from scores."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.heads.span_decoding import answer, bio, bio_names, entities, entity_labels

NAMES = bio_names(("PER", "LOC"))


def of(*tags: str, names=NAMES):
    return entities(np.array([names.index(one) for one in tags], np.int64), names)


def test_names_of_rows():
    assert NAMES == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert entity_labels(NAMES) == ("PER", "LOC")


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ((), []),
        (("O", "O"), []),
        (("B-PER", "I-PER", "O", "B-LOC"), [(0, 2, 0), (3, 4, 1)]),
        (("B-PER", "B-PER", "I-PER"), [(0, 1, 0), (1, 3, 0)]),
        (("O", "I-PER", "I-PER"), [(1, 3, 0)]),
        (("B-LOC", "I-PER", "I-PER"), [(0, 1, 1), (1, 3, 0)]),
        (("I-LOC", "I-LOC", "B-LOC"), [(0, 2, 1), (2, 3, 1)]),
    ],
)
def test_entities(tags, spans):
    assert of(*tags) == spans


def test_names_may_stand_in_any_order():
    names = ("I-LOC", "B-PER", "O", "B-LOC", "I-PER")
    assert entity_labels(names) == ("LOC", "PER")
    assert of("B-PER", "I-PER", "B-LOC", "I-LOC", names=names) == [(0, 2, 1), (2, 4, 0)]


def test_bio_is_the_inverse():
    rng = np.random.default_rng(0)
    for _ in range(50):
        cuts = np.sort(rng.choice(30, 8, replace=False)).tolist()
        spans = [(a, b, int(rng.integers(2))) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
        assert entities(bio(spans, 30), NAMES) == spans
    assert bio([(1, 1, 0)], 2).tolist() == [0, 0]


def slowly(scores, longest):
    """All spans, one by one."""
    start, end = (np.exp(one) / np.exp(one).sum() for one in scores.T)
    spans = [(a, b + 1) for a in range(len(scores)) for b in range(a, min(len(scores), a + longest))]
    best = max(spans, key=lambda span: start[span[0]] * end[span[1] - 1])
    return *best, start[best[0]] * end[best[1] - 1]


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
def test_the_likeliest_answer(rows):
    rng = np.random.default_rng(rows)
    for longest in (1, 3, 30):
        scores = rng.normal(size=(rows, 2)).astype(np.float32) * 3
        start, end, probability = answer(scores, longest)
        assert (start, end) == slowly(scores, longest)[:2]
        assert probability == pytest.approx(slowly(scores, longest)[2], rel=1e-5)


def test_an_answer_never_ends_before_it_starts():
    scores = np.zeros((5, 2))
    scores[4, 0] = scores[0, 1] = 9
    start, end, probability = answer(scores)
    assert start < end
    assert probability < 0.05


def test_scores_that_are_not_finite():
    assert answer(np.full((4, 2), np.nan)) == (0, 0, 0.0)
    assert answer(np.zeros((0, 2))) == (0, 0, 0.0)
    scores = np.array([[np.nan, 0], [1, 0], [0, np.inf], [0, 5]])
    assert answer(scores)[:2] == (1, 4)
