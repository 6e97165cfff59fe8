"""Heads of ready vectors, through the client and a real server: what a data scientist brings along."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import topwork


@pytest.fixture
def client(real_client: topwork.Client) -> topwork.Client:
    return real_client


def test_copies_in_other_bytes_do_not_tell_their_labels(client: topwork.Client) -> None:
    """60 vectors with random labels, each written twice: as it is, in float16, or multiplied."""
    random = np.random.default_rng(0)
    once, labels = random.normal(size=(60, 32)).astype(np.float32), random.integers(0, 3, 60).astype(str).tolist()
    twice = once.copy()
    twice[20:40] = once[20:40].astype(np.float16)
    twice[40:] = 2.5 * once[40:]
    rows = [{"label": label} for label in labels * 2]
    client.write("copies", vectors=np.concatenate([once, twice]), ids=[f"c{i}" for i in range(120)], metadata=rows)
    head = client.train("copies", target="label", kind="knn", options={"k": 5}, folds=3)
    assert head.metric is not None
    assert head.metric.value < 0.55
    assert "60 groups" in head.estimate


def test_numbers_keep_their_digits_whatever_their_offset(client: topwork.Client) -> None:
    """1e9 + x has seven digits before the first that float32 cannot hold."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(120, 6)).astype(np.float32)
    numbers = 1e9 + rows @ np.arange(1.0, 7.0) + 0.1 * random.normal(size=120)
    metadata = [{"number": float(number)} for number in numbers]
    client.write("numbers", vectors=rows, ids=[f"n{i}" for i in range(120)], metadata=metadata)
    head = client.train("numbers", target="number", folds=3)
    assert head.metric is not None
    assert (head.metric.name, head.metric.value > 0.99) == ("R2", True)
    found = client.predict(head.name, vectors=rows)
    assert found.values is not None
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, numbers, rtol=0, atol=0.6)
    assert 0.05 < found.interval < 0.6
    assert str(found[0]).startswith(f"{numbers[0]:.0f}"[:9])
    [worst] = client.report(head.name).misclassified[:1]
    assert worst.truth != worst.predicted


BAD = {
    "nan": [float("nan")] * 2 + [1.0] * 10,
    "inf": [float("inf"), *map(float, range(11))],
    "one class": ["a"] * 12,
    "one item a class": [f"c{i}" for i in range(12)],
    "nothing": [None] * 12,
    "dates": [datetime(2024, 1, 1 + i) for i in range(12)],
    "empty lists": [[]] * 12,
    "empty label": [["a", ""]] * 12,
    "constant": [2.0] * 12,
}


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_targets_that_cannot_be_learned_are_refused_before_they_are_trained(client: topwork.Client, values: list[object]) -> None:
    rows, ids = np.eye(12, dtype=np.float32), [str(i) for i in range(12)]
    client.write("bad", vectors=rows, ids=ids, metadata=[{"y": value} for value in values])
    with pytest.raises(topwork.InvalidInput, match="'y'") as caught:
        client.train("bad", target="y", wait=False)
    assert caught.value.remedy
    client.drop_set("bad")


@pytest.mark.parametrize("mixed", [[True, 1, 2.5], ["a", 1, 2], [["a", None]], [["a", 1]], [{"a": 1}], [[1.0, 2.0]], [b"a"]])
def test_values_that_are_no_targets_are_refused_where_they_are_written(client: topwork.Client, mixed: list[object]) -> None:
    with pytest.raises(topwork.InvalidInput, match=r"item \d: column 'y'"):
        client.write("mixed", vectors=np.eye(3, dtype=np.float32)[: len(mixed)], ids=["0", "1", "2"][: len(mixed)],
                     metadata=[{"y": value} for value in mixed])  # fmt: skip


def test_what_a_head_of_vectors_cannot_do_is_told_with_what_it_can(client: topwork.Client) -> None:
    """Heads of the tests above would do, but each test stands alone."""
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    client.write("few", vectors=rows, ids=[str(i) for i in range(12)], metadata=[{"y": "ab"[i % 2]} for i in range(12)])
    for more, words in (
        ({"test_where": "1 = 1"}, "none is left to learn from"),
        ({"poolings": ["two-tower"]}, "keeps no raw inputs"),
        ({"target": ["y", "z"]}, "target is a list"),
        ({"options": {"strengths": 0}}, "give 1 to 500"),
        ({"folds": 1}, "ask for 2 to 20"),
    ):
        with pytest.raises(topwork.TopworkError, match=words):
            client.train("few", **{"target": "y", "wait": False} | more)  # type: ignore[arg-type]
    head = client.train("few", target="y", kind="prototype", name="few-heads")
    with pytest.raises(topwork.InvalidInput, match="'few-heads' reads ready vectors"):
        client.predict(head.name, ["a text"])


def clouds(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Three clouds that overlap, and their names."""
    random = np.random.default_rng(seed)
    which = random.integers(0, 3, count)
    return (1.5 * np.eye(3)[which] + random.normal(size=(count, 3))).astype(np.float32), [f"c{at}" for at in which]


def test_candidates_hold_the_truth_as_often_as_promised(client: topwork.Client) -> None:
    rows, labels = clouds(400, 0)
    ids = [f"i{i}" for i in range(400)]
    client.write("clouds", vectors=rows, ids=ids, metadata=[{"label": label, "both": ["x", label]} for label in labels])
    head, both = (client.train("clouds", target=target, name=f"clouds-{target}", folds=3) for target in ("label", "both"))
    measured = {metric.name: metric for metric in head.metrics}["coverage of 90% sets"]
    assert measured.low < 0.9 < measured.high
    fresh, truth = clouds(1000, 1)
    for coverage in (0.8, 0.95):
        found = client.predict(head.name, vectors=fresh, coverage=coverage)
        assert coverage - 0.05 < np.mean([of in one.candidates for one, of in zip(found, truth, strict=True)]) < coverage + 0.05
        assert all(one.candidates and one.candidates[0] == one.label for one in found)
    found = client.predict(both.name, vectors=fresh, coverage=0.9)
    assert np.mean([{"x", of} <= {*one.candidates} for one, of in zip(found, truth, strict=True)]) > 0.85
    assert client.predict(head.name, vectors=fresh[:2])[0].candidates is None
    stored = client.predict(head.name, set="clouds", ids=ids[:3], coverage=0.9)
    assert [*stored[0].candidates] == [stored.names[at] for at in stored.candidates[0]]


def test_a_band_is_as_wide_as_its_promise(client: topwork.Client) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(600, 3)).astype(np.float32)
    numbers = rows @ [1.0, 2.0, 3.0] + random.normal(size=600)
    metadata = [{"y": float(number)} for number in numbers[:300]]
    client.write("bands", vectors=rows[:300], ids=[f"i{i}" for i in range(300)], metadata=metadata)
    head = client.train("bands", target="y", folds=3)
    usual, half = (client.predict(head.name, vectors=rows[300:], **asked) for asked in ({}, {"coverage": 0.5}))
    for found, coverage in ((usual, 0.9), (half, 0.5)):
        covered = np.mean((found.low <= numbers[300:]) & (numbers[300:] <= found.high))
        assert coverage - 0.08 < covered < coverage + 0.08
    assert half.interval < 0.6 * usual.interval


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"coverage": 1.0}, "above 0 and below 1"),
        ({"coverage": -0.5}, "above 0 and below 1"),
        ({"coverage": 0.97}, "needs 33 held-out items.* has 12.*at most 0.923"),
        ({"abstain": -1.0}, "abstain is -1.*above 0 and below 1"),
        ({"abstain": 0.5}, "abstain is 0.5.*2 classes.*less than 0.5"),
    ],
)
def test_promises_that_no_head_can_keep_are_refused(client: topwork.Client, asked: dict[str, float], words: str) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    client.write("twelve", vectors=rows, ids=[str(i) for i in range(12)], metadata=[{"y": "ab"[i % 2]} for i in range(12)])
    head = client.train("twelve", target="y", kind="prototype", replace=True)
    with pytest.raises(topwork.InvalidInput, match=words) as caught:
        client.predict(head.name, vectors=rows, **asked)
    assert caught.value.remedy


def test_a_head_abstains_where_it_is_unsure_or_the_item_is_unlike_the_others(client: topwork.Client) -> None:
    rows, labels = clouds(400, 0)
    client.write("doubts", vectors=rows, ids=[f"i{i}" for i in range(400)], metadata=[{"label": label} for label in labels])
    head = client.train("doubts", target="label", folds=3)
    fresh, truth = clouds(1000, 1)
    plain = client.predict(head.name, vectors=fresh)
    assert (plain.abstained, plain[0].abstained, plain[0].typicality) == (None, None, None)
    found = client.predict(head.name, vectors=fresh, abstain=0.2)
    assert found.threshold == pytest.approx(0.8)
    unsure = [one.abstained == "unsure" for one in found]
    assert unsure == (plain.probabilities.max(axis=1) < 0.8).tolist()
    assert [label is None for label in found.labels] == unsure
    wrong = np.mean([label != of for label, of in zip(plain.labels, truth, strict=True)])
    cost = np.mean([0.2 if label is None else label != of for label, of in zip(found.labels, truth, strict=True)])
    assert cost < wrong - 0.05
    typical = client.predict(head.name, vectors=fresh, unlike=0.02)
    assert np.mean([p.abstained == "unlike" for p in typical]) < 0.06
    assert typical.typicality.dtype == np.float32
    assert client.predict(head.name, vectors=fresh, unlike=0).abstained == [""] * 1000


def test_numbers_are_kept_back_for_items_unlike_the_others(client: topwork.Client) -> None:
    random = np.random.default_rng(0)
    rows = np.concatenate([random.normal(size=(80, 6)), np.zeros((80, 6))], axis=1).astype(np.float32)
    metadata = [{"y": float(row.sum())} for row in rows]
    client.write("flat", vectors=rows, ids=[f"i{i}" for i in range(80)], metadata=metadata)
    head = client.train("flat", target="y", folds=3)
    [one] = client.predict(head.name, vectors=np.roll(rows[:1], 6), unlike=0.05)
    assert (one.abstained, one.value, one.low) == ("unlike", None, None)
    assert str(one).startswith("none of these: unlike the training items, typicality 0.0")
    with pytest.raises(topwork.InvalidInput, match=r"80 training items.*below 0\.012.*100 items"):
        client.predict(head.name, vectors=rows[:1], unlike=0.01)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"abstain": 1.0}, "abstain is 1"),
        ({"unlike": 1.0}, "unlike is 1"),
        ({"abstain": 0.1}, "for regression.*in classification alone"),
        ({"coverage": 0.9, "unlike": 0.1}, "does not know what its training items look like"),
    ],
)
def test_doubts_that_a_head_cannot_have_are_refused(client: topwork.Client, asked: dict[str, float], words: str) -> None:
    rows = np.random.default_rng(0).normal(size=(24, 1)).astype(np.float32)
    client.write("line", vectors=rows, ids=[str(i) for i in range(24)], metadata=[{"y": float(row[0])} for row in rows])
    head = client.train("line", target="y", folds=3, replace=True)
    with pytest.raises(topwork.TopworkError, match=words) as caught:
        client.predict(head.name, vectors=rows, **asked)
    assert caught.value.remedy


@pytest.mark.parametrize("kind", ["label", "number"])
def test_metrics_of_weights_are_those_of_copies(client: topwork.Client, kind: str) -> None:
    """Evaluated on the same test items: once as often as they weigh, once with their weights."""
    random = np.random.default_rng(0)
    rows, labels = clouds(160, 0)
    numbers = (rows @ [1.0, -1.0, 2.0] + random.normal(size=160)).tolist()
    often = random.integers(1, 4, 160)
    every = [
        {"label": label, "number": number, "weight": int(times), "test": bool(i % 2)}
        for i, (label, number, times) in enumerate(zip(labels, numbers, often, strict=True))
    ]
    copies = [(i, at) for i in range(160) for at in range(often[i] if i % 2 else 1)]
    weights = [{**one, "weight": one["weight"] if one["test"] else 1} for one in every]
    client.write(f"weighed-{kind}", vectors=rows, ids=[f"{i:03}" for i in range(160)], metadata=weights)
    metadata, ids = [every[i] for i, _ in copies], [f"{i:03}-{at}" for i, at in copies]
    client.write(f"copied-{kind}", vectors=rows[[i for i, _ in copies]], ids=ids, metadata=metadata)
    weighed = client.train(f"weighed-{kind}", target=kind, weight="weight", test_where="test")
    copied = client.train(f"copied-{kind}", target=kind, test_where="test")
    assert (weighed.weight, copied.weight) == ("weight", "")
    [line] = client.probe(f"weighed-{kind}", target=kind, weight="weight", kind="prototype" if kind == "label" else "linear").rows
    [plain] = client.probe(f"weighed-{kind}", target=kind, kind="prototype" if kind == "label" else "linear").rows
    assert line.metric.value != plain.metric.value
    found, expected = ({one.name: one.value for one in head.metrics + head.baseline} for head in (weighed, copied))
    for name in expected.keys() - {"coverage of 90% sets", "size of 90% sets", "coverage of the 90% band"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"weight": "wait"}, "column 'wait'.*is not there"),
        ({"weight": "y"}, "column 'y'.*holds string"),
        ({"weight": "zero"}, "item '3': the weight 0 in column 'zero'"),
        ({"weight": "some"}, "item '3' has a label and no weight"),
        ({"weight": "good", "kind": "knn"}, "knn does not weigh its items by 'good'"),
    ],
)
def test_weights_that_mean_nothing_are_refused(client: topwork.Client, asked: dict[str, str], words: str) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    metadata = [{"y": "ab"[i % 2], "good": 1.0, "zero": float(i != 3), "some": None if i == 3 else 1.5} for i in range(12)]
    client.write("weights", vectors=rows, ids=[str(i) for i in range(12)], metadata=metadata)
    with pytest.raises(topwork.InvalidInput, match=words) as caught:
        client.train("weights", target="y", wait=False, **asked)
    assert caught.value.remedy


def test_recent_predictions_warn_of_other_classes(client: topwork.Client) -> None:
    rows, labels = clouds(400, 0)
    ids = [f"i{i}" for i in range(400)]
    client.write("shift", vectors=rows, ids=ids, metadata=[{"label": label} for label in labels])
    head = client.train("shift", target="label", folds=3)
    client.predict(head.name, set="shift", ids=ids)
    assert client.head(head.name).recent is None
    fresh, truth = clouds(900, 1)
    client.predict(head.name, vectors=fresh)
    alike = client.head(head.name).recent
    assert alike is not None
    assert (alike.items, alike.warning) == (900, "")
    client.train("shift", target="label", folds=3, replace=True)
    client.predict(head.name, vectors=fresh[np.array(truth) == "c1"])
    recent = client.head(head.name).recent
    assert recent is not None
    assert "c1 is about" in recent.warning
    assert {one.name: one.estimated > 0.8 for one in recent.shares} == {"c0": False, "c1": True, "c2": False}
    assert next(one for one in client.heads() if one.name == head.name).recent is None
