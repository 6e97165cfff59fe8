"""A head on taps of two sets, which hold the same items by different encoders, over both clients and a real server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import heads_harness
import numpy as np
import pytest
import topwork
from both_clients import EitherClient

TEXTS, LABELS = heads_harness.words(60)
IDS = [f"r{i}" for i in range(60)]
BOTH = ["mean", "others:letters"]


@pytest.fixture
def both(real_both: EitherClient) -> EitherClient:
    write(real_both, "birds", "letters", range(60), ["mean", "letters"])
    write(real_both, "others", "second", range(60), ["mean", "letters"])
    return real_both


def write(client: EitherClient, name: str, encoder: str, which: Sequence[int], taps: Sequence[str] = ("mean",)) -> None:
    rows = [{"label": LABELS[i]} for i in which]
    client.write(name, [TEXTS[i] for i in which], [IDS[i] for i in which], rows, encoder=encoder, taps=taps)


def test_items_vectors_and_stored_items(both: EitherClient, tmp_path: Path) -> None:
    head = both.train("birds", target="label", kind="prototype", taps=BOTH, combine=True)
    assert (head.tap, head.encoder, head.warnings) == ("mean+others:letters", "letters", ())
    assert [one.name for one in both.heads("second")] == [head.name]
    alone = both.train("birds", target="label", kind="prototype", name="alone")
    found = both.predict([head.name, alone.name], TEXTS)
    assert both.predict(alone.name, TEXTS).labels == found[alone.name].labels
    wanted = found[head.name].probabilities
    for named in ("birds", "others"):
        stored = both.predict(head.name, set=named, ids=IDS[::-1])
        np.testing.assert_allclose(stored.probabilities, wanted[::-1], atol=1e-5)
    one, other = both.embed("letters", TEXTS), both.embed("second", TEXTS, tap="letters")
    means = np.add.reduceat(other.rows, np.r_[0, np.cumsum(other.counts)[:-1]]) / other.counts[:, None]
    given = both.predict(head.name, vectors=np.concatenate([one.rows, means], axis=1))
    np.testing.assert_allclose(given.probabilities, wanted, atol=1e-4)
    assert both.report(head.name).encoder == "letters+second"
    with pytest.raises(topwork.InvalidInput, match=r"side by side: .* of mean"):
        both.predict(head.name, vectors=one.rows)
    with pytest.raises(topwork.InvalidInput, match="options of its own"):
        both.predict(head.name, TEXTS, options={"truncate": True})
    with pytest.raises(topwork.InvalidInput, match="one trunk"):
        both.export_head(head.name, tmp_path / "never.onnx")


def test_items_of_one_set_alone_are_left_out(real_both: EitherClient) -> None:
    write(real_both, "birds", "letters", range(50))
    write(real_both, "others", "second", range(10, 60))
    head = real_both.train("birds", target="label", kind="prototype", taps=["others:mean"], combine=True)
    assert (head.tap, head.labeled) == ("mean+others:mean", 40)
    assert any("10 of 50 items" in warning and "others" in warning for warning in head.warnings)
    with pytest.raises(topwork.NotFound, match="r0"):
        real_both.predict(head.name, set="birds", ids=["r20", "r0"])
    real_both.write("others", ["abba"], ["r20"], [{"label": "owl"}], encoder="second")
    again = real_both.train("birds", target="label", kind="prototype", taps=["others:mean"], combine=True, replace=True)
    assert any("another content" in warning and "r20" in warning for warning in again.warnings)


def test_both_sets_are_pinned_and_may_go(both: EitherClient) -> None:
    head = both.train("birds", target="label", kind="prototype", taps=BOTH, combine=True)
    with pytest.raises(topwork.AlreadyExists):  # it first awaits what follows the end of the job
        both.train("birds", target="label", taps=BOTH, combine=True)
    pinned = {name: [pin for one in both.versions(name) for pin in one.pins] for name in ("birds", "others")}
    assert pinned == {"birds": [f"head-{head.name}"], "others": [f"head-{head.name}"]}
    wanted = both.predict(head.name, TEXTS).labels
    both.drop_set("others")
    assert both.predict(head.name, TEXTS).labels == wanted
    with pytest.raises(topwork.NotFound, match="others"):
        both.predict(head.name, set="birds", ids=IDS)
    both.drop_head(head.name)
    assert not [pin for one in both.versions("birds") for pin in one.pins]


def test_what_is_refused(both: EitherClient) -> None:
    both.write("apart", TEXTS[:5], [f"q{i}" for i in range(5)], encoder="second")
    for wrong, error, words in (
        ({"taps": BOTH}, topwork.InvalidInput, "side by side"),
        ({"taps": ["mean", "nobody:mean"]}, topwork.NotFound, "nobody"),
        ({"taps": ["mean", "others:max"]}, topwork.NotFound, "max"),
        ({"taps": ["mean", "apart:mean"]}, topwork.InvalidInput, "in common"),
        ({"taps": BOTH, "kind": "fine-tune"}, topwork.TopworkError, "learns on one tap|raw inputs"),
    ):
        combine = "side" not in words
        with pytest.raises(error, match=words):
            both.train("birds", target="label", combine=combine, name="no", **wrong)
    assert both.heads() == []
