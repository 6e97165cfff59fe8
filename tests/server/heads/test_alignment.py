"""Pictures get a text side from their captions: trained, searched by text, refused and dropped, over a real server.

Captions are a shade and a color, of word vectors from a file, so that those which were held out have words that were learned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_server
import tiny_pictures
import topwork
from captioned_pictures import CAPTIONS, means_net, picture, word_vectors
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

EACH = 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text encoder `words`, and two trunks: the network `net`, and the graph `graph`."""
    place = tmp_path_factory.mktemp("aligned")
    catalog = Catalog(PluginRegistry.load(), place / "home")
    catalog.add(f"file:{word_vectors(place / 'words.txt')}", "words")
    folder = tiny_pictures.write(tiny_pictures.random_model("resnet"), place / "net")
    catalog.add(f"file:{folder}", "net")
    catalog.add(f"onnx:{means_net(place / 'graph.onnx')}", "graph")
    for name in catalog.added():
        catalog.export(name)
    return place / "home"


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[topwork.Client]:
    with real_server.served(home, PluginRegistry.load()) as address, topwork.Client(address) as client:
        write(client, "net", "net")
        write(client, "graph", "graph")
        client.write("texts", CAPTIONS, CAPTIONS, {"caption": CAPTIONS}, encoder="words")
        yield client


def write(client: topwork.Client, name: str, encoder: str, captions: Sequence[str | None] = CAPTIONS * EACH, **more: Any) -> None:
    pictures = [picture(CAPTIONS[i % len(CAPTIONS)], i) for i in range(len(captions))]
    ids = [f"{i:03d}" for i in range(len(captions))]
    client.write(name, pictures, ids, {"caption": list(captions)}, encoder=encoder, **more)


def align(client: topwork.Client, set_name: str, /, **more: Any) -> topwork.HeadInfo:
    options = {"text_encoder": "words", **more.pop("options", {})}
    return client.train(set_name, target="caption", kind="align", options=options, **more)


@pytest.fixture(scope="module")
def head(client: topwork.Client) -> topwork.HeadInfo:
    return align(client, "net")


@pytest.fixture(scope="module")
def encoder(head: topwork.HeadInfo) -> str:
    return str(head.chosen["encoder"])


def test_it_is_judged_by_recall_of_captions_that_were_held_out(client, head) -> None:
    assert (head.task, head.encoder, head.tap) == ("alignment", "net", "pooled")
    assert head.metric.name == "recall at 5"
    assert "24 groups" in head.estimate  # of equal captions
    report = client.report(head.name)
    first, chance = ({one.name: one for one in metrics}["recall at 1"] for metrics in (report.metrics, report.baseline))
    assert first.low > chance.value  # by 5 chance is near 1: a fold has 5 captions
    assert [point.metric.name for point in report.learning_curve][:1] == ["recall at 5"]
    assert len(report.trials) == 13


def test_pictures_and_texts_have_one_space(client, encoder) -> None:
    assert client.encoder(encoder).modalities == ("image", "text")
    pictures, texts = (client.embed(encoder, items) for items in ([picture(c, 99) for c in CAPTIONS], CAPTIONS))
    assert pictures.fingerprint == texts.fingerprint
    rows, captions = pictures.rows, texts.rows
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(captions, client.embed("words", CAPTIONS).rows, atol=1e-6)
    cosines = rows @ (captions / np.linalg.norm(captions, axis=1, keepdims=True)).T
    assert np.mean(np.diag(cosines)) > np.mean(cosines) + 0.3


def test_a_set_of_pictures_is_searched_by_text(client, encoder) -> None:
    write(client, "aligned", encoder)
    found = client.search("aligned", ["bright blue", "black red"], k=6)
    captions = {f"{i:03d}": caption for i, caption in enumerate(CAPTIONS * EACH)}
    assert "bright blue" in [captions[hit.id] for hit in found[0]]
    assert "black red" in [captions[hit.id] for hit in found[1]]
    zero = client.train("aligned", target="caption", kind="zero-shot", name="zero", descriptions={c: c for c in CAPTIONS})
    assert zero.metric.value > 2 * zero.baseline[0].value
    client.drop_head("zero")


def test_it_goes_with_its_head_once_nothing_stands_on_it(client, home, head, encoder) -> None:
    with pytest.raises(topwork.NotReady, match="the set aligned"):
        client.drop_head(head.name)
    catalog = Catalog(PluginRegistry.load(), home)
    assert [catalog.derived_from(name) for name in ("net", "words")] == [[encoder], [encoder]]
    client.drop_set("aligned")
    client.drop_head(head.name)
    assert [catalog.derived_from(name) for name in ("net", "words")] == [[], []]
    assert not [path for path in home.rglob(f"{encoder}*") if "spool" not in path.parts]
    assert len(client.embed("words", ["red"]).rows) == 1  # the artifact of the text encoder is its own


def test_a_trunk_that_is_a_graph(client) -> None:
    head = align(client, "graph", name="of-graph")
    rows = client.embed(str(head.chosen["encoder"]), [picture(CAPTIONS[0], 5)]).rows
    assert rows.shape == (1, 10)
    client.drop_head("of-graph")


def test_weights_of_the_text_encoder_are_not_needed_beside_its_artifact(client, home) -> None:
    file = home.parent / "words.txt"
    file.rename(away := file.with_suffix(".away"))
    try:
        head = align(client, "graph", name="without")
        assert client.embed(str(head.chosen["encoder"]), ["bright red"]).rows.shape == (1, 10)
    finally:
        away.rename(file)
    client.drop_head("without")


def test_several_taps_side_by_side(client) -> None:
    write(client, "taps", "net", taps=["layer3.pooled", "pooled"])
    head = align(client, "taps", taps=["layer3.pooled", "pooled"], combine=True)
    assert head.tap == "layer3.pooled+pooled"
    assert client.embed(str(head.chosen["encoder"]), [picture(CAPTIONS[0], 5)]).rows.shape == (1, 10)


def test_what_the_head_gives_is_no_prediction(client) -> None:
    head = align(client, "graph", name="asked")
    with pytest.raises(topwork.InvalidInput, match="search by text"):
        client.predict("asked", [picture(CAPTIONS[0], 1)])
    write(client, "tuned", str(head.chosen["encoder"]), keep_inputs=True)
    with pytest.raises(topwork.InvalidInput, match="with a map to the space of texts"):
        client.train("tuned", target="caption", kind="fine-tune")
    client.drop_set("tuned")
    client.drop_head("asked")


def test_captions_that_are_blank_count_as_missing(client) -> None:
    captions = [None, " ", *CAPTIONS[2:]]
    write(client, "gaps", "graph", captions)
    head = align(client, "gaps")
    assert (head.labeled, head.unlabeled) == (22, 2)
    assert any("1 label is empty" in warning for warning in head.warnings)


def test_captions_that_the_text_encoder_does_not_know_are_left_out(client) -> None:
    write(client, "strange", "graph", ["Zyzzyva", *CAPTIONS[1:]])
    head = align(client, "strange")
    assert (head.labeled, head.unlabeled) == (23, 0)
    [warning] = [warning for warning in head.warnings if "left out" in warning]
    assert all(word in warning for word in ("1 labeled item", "000", "'Zyzzyva'", "vocabulary"))
    client.write("strange", [picture(CAPTIONS[0], 90)], ["tested"], {"caption": ["qwerty"]})
    with pytest.raises(topwork.errors.TopworkError, match="that was trained on") as refused:
        align(client, "strange", name="untested", test_where="id = 'tested'")
    assert "000, tested" in refused.value.message


def test_captions_of_which_none_is_known_are_an_error_that_says_so(client) -> None:
    write(client, "foreign", "graph", [f"Wort{chr(97 + i)}" for i in range(24)])
    with pytest.raises(topwork.errors.TopworkError) as refused:
        align(client, "foreign", name="hopeless")
    assert all(word in str(refused.value) for word in ("24 labeled items", "words does not embed", "vocabulary"))


def test_a_test_of_captions_that_were_learned_is_none(client) -> None:
    """The second picture of each caption is the test: its caption would be known."""
    with pytest.raises(topwork.errors.TopworkError, match="caption is that of a test item"):
        align(client, "graph", name="twice", test_where="id >= '024'")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"options": {"text_encoder": "wrds"}}, "words"),
        ({"options": {"text_encoder": "net"}}, "does not embed captions"),
        ({"where": "id < '009'"}, "9 different captions"),
        ({"taps": ["layer3"]}, "no tap"),
        ({"task": "classification"}, "does not learn"),
        ({"weight": "caption"}, "does not weigh"),
        ({"unlabeled": "self-training"}, "for classes"),
    ],
)
def test_what_cannot_be_aligned_is_refused_before_a_job(client, settings, words) -> None:
    with pytest.raises(topwork.errors.TopworkError) as refused:
        align(client, "graph", name="never", **settings)
    assert words in f"{refused.value.message} {refused.value.remedy}"
    assert "never" not in [head.name for head in client.heads()]


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (list(range(24)), ["caption", "alignment reads string"]),
        ([i / 7 for i in range(24)], ["caption", "alignment reads string"]),
        ([i % 2 == 0 for i in range(24)], ["caption", "alignment reads string"]),
        ([[caption] for caption in CAPTIONS], ["caption", "alignment reads string"]),
        (["a stamp"] * 24, ["caption", "24 items", "the same caption", "tells its item from others"]),
    ],
)
def test_a_column_that_says_nothing_of_single_items_is_refused(client, captions, words) -> None:
    write(client, "said", "graph", captions)
    with pytest.raises(topwork.InvalidInput) as refused:
        align(client, "said", name="never")
    assert all(word in f"{refused.value.message} {refused.value.remedy}" for word in words), refused.value
    assert "never" not in [head.name for head in client.heads()]
    client.drop_set("said")


def test_a_cancelled_alignment_leaves_nothing(client, home) -> None:
    def there() -> set[str]:
        files = {path.name for folder in ("encoders", "artifacts") for path in (home / folder).iterdir()}
        return files | {encoder.name for encoder in client.encoders()}

    before = there()
    job = align(client, "graph", name="ended", wait=False).job
    assert any("exporting the encoder" in state.message for state in client.watch_job(job.id))
    assert client.cancel_job(job.id).state == "cancelled"
    assert client.head("ended").state == "failed"
    deadline = time.monotonic() + 30
    while there() != before and time.monotonic() < deadline:  # the child may end after the job has
        time.sleep(0.1)
    assert there() == before
    again = align(client, "graph", name="ended", replace=True)
    assert len(client.embed(str(again.chosen["encoder"]), ["red"]).rows) == 1
    client.drop_head("ended")


def test_a_set_of_texts_is_refused(client) -> None:
    with pytest.raises(topwork.InvalidInput, match="reads texts already"):
        align(client, "texts")
