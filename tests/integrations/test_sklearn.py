"""The transformer and the classifier of scikit-learn, on a real server."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from topwork.integrations.sklearn import TopworkClassifier, TopworkTransformer

TEXTS = [word + word[i // 2] for i in range(6) for word in ("abc", "xyz")]
LABELS = ["one", "two"] * 6


@pytest.fixture(autouse=True)
def usual_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server)


@pytest.fixture
def left(client: topwork.Client) -> Callable[..., bool]:
    """A function that tells whether just these sets and heads of classifiers are on the server, but those of before."""

    def there() -> set[str]:
        return {one.name for one in [*client.sets(), *client.heads()] if one.name.startswith("sklearn-")}

    gc.collect()
    before = there()

    def left_of_them(*expected: str) -> bool:
        """Tell whether these are left. A head goes in the background: it is waited for."""
        gc.collect()
        deadline = time.monotonic() + 20
        while (found := there() - before) - set(expected) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found == set(expected)

    return left_of_them


class ArrayTransformer(TopworkTransformer):
    """Of an encoder of arrays: scikit-learn has checks for estimators of numbers alone."""

    def __init__(self, encoder: str = "numbers", normalize: bool = False, server: Any = None) -> None:
        super().__init__(encoder, normalize=normalize, server=server)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


#: Checks that are known to fail, by estimator, and why.
FAILING: dict[str, dict[str, str]] = {
    "ArrayTransformer": {},
    "TopworkClassifier": {
        "check_sample_weight_equivalence_on_dense_data": "a class needs two items, for its evaluation: a weight of 2 is none",
    },
}
#: `make test-integrations` runs all of the classifier's, each of which trains several heads: 4 minutes.
WHOLE = bool(os.environ.get("TOPWORK_WHOLE"))


def checks(estimator: Any) -> list[Any]:
    found = list(estimator_checks_generator(estimator))
    assert len(found) > 40
    return [pytest.param(estimator, check, id=f"{type(estimator).__name__}-{named(check)}") for estimator, check in found]


def named(check: Any) -> str:
    function = getattr(check, "func", check)
    settings = ",".join(str(value) for value in getattr(check, "keywords", {}).values())
    return f"{function.__name__}{f'[{settings}]' if settings else ''}"


@pytest.mark.parametrize(("estimator", "check"), [*checks(ArrayTransformer()), *(checks(TopworkClassifier()) if WHOLE else [])])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    reason = FAILING[type(estimator).__name__].get(named(check))
    if reason is None:
        check(estimator)
        return
    with pytest.raises(Exception):  # noqa: B017, PT011
        check(estimator)


def test_texts_become_rows_in_every_form_that_they_come_in(client: topwork.Client) -> None:
    expected = client.embed("letters", ["ab", "cd e"]).rows
    transformer = TopworkTransformer("letters").fit(["ab"])
    assert transformer.fingerprint_ == client.embed("letters", ["ab"]).fingerprint
    forms: list[Any] = [
        ["ab", "cd e"],
        np.array(["ab", "cd e"]),
        np.array(["ab", "cd e"], object),
        np.array([["ab"], ["cd e"]]),
        [["ab"], ["cd", "e"]],
    ]
    for form in forms:
        np.testing.assert_array_equal(transformer.transform(form), expected)
    assert transformer.transform([]).shape == (0, 8)


def test_pictures_come_as_paths_bytes_arrays_and_pil_images(client: topwork.Client, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    expected = client.embed("patches", paths).rows
    transformer = TopworkTransformer("patches").fit(paths)
    pictures = [Image.open(path) for path in paths]
    for form in (paths, list(map(str, paths)), [path.read_bytes() for path in paths], pixels, pictures):
        np.testing.assert_allclose(transformer.transform(form), expected, atol=1e-6)


def test_output_has_names_and_settings(client: topwork.Client) -> None:
    transformer = TopworkTransformer("letters", normalize=True, dimensions=3, options={"case": "lower"}).fit(["ab"])
    assert list(transformer.get_feature_names_out()) == [f"topworktransformer{i}" for i in range(3)]
    rows = transformer.transform(["ABBA", "x"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    expected = client.embed("letters", ["abba", "x"], normalize=True, dimensions=3).rows
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert clone(transformer).get_params() == transformer.get_params()


def test_items_have_a_role_where_one_is_named(client: topwork.Client) -> None:
    for role, mark in (("query", "?"), ("document", "!"), (None, "*")):
        rows = clone(TopworkTransformer("marked", role=role)).fit_transform(["ab"])
        np.testing.assert_array_equal(rows, client.embed("marked", ["ab"], options={"prompt": mark}).rows)


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas", reason="it is in the environment of `make test-integrations`")
    frame = pandas.DataFrame({"text": TEXTS, "length": [len(text) for text in TEXTS]}, index=range(5, 17))
    transformer = TopworkTransformer("letters").set_output(transform="pandas")
    found = transformer.fit_transform(frame[["text"]])
    assert list(found.index) == list(frame.index)
    assert found.columns[0] == "topworktransformer0"
    np.testing.assert_array_equal(found.to_numpy(), transformer.fit_transform(frame["text"]).to_numpy())


def test_it_works_in_a_pipeline_a_column_transformer_and_a_search() -> None:
    pipeline = make_pipeline(TopworkTransformer("letters"), LogisticRegression())
    assert pipeline.fit(TEXTS, LABELS).score(TEXTS, LABELS) == 1
    table = np.array([[text, len(text)] for text in TEXTS], object)
    columns = ColumnTransformer([("text", TopworkTransformer("letters"), [0]), ("length", StandardScaler(), [1])])
    assert columns.fit_transform(table).shape == (12, 9)
    assert columns.get_feature_names_out(["t", "n"])[0] == "text__topworktransformer0"
    grid = {"topworktransformer__dimensions": [2, 0], "logisticregression__C": [0.1, 1]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2).fit(TEXTS, LABELS)
    assert search.best_score_ == 1


def test_another_process_opens_its_own_connection(tmp_path: Path) -> None:
    transformer = TopworkTransformer("letters").fit(TEXTS)
    expected = transformer.transform(TEXTS)
    (tmp_path / "pickled").write_bytes(pickle.dumps(transformer))
    program = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).transform(['abca']).tolist())"
    found = subprocess.run([sys.executable, "-c", program, tmp_path / "pickled"], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.array(eval(found.stdout)), expected[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("transformer", "items", "error", "word"),
    [
        (TopworkTransformer("nosuch"), ["a"], topwork.NotFound, "nosuch"),
        (TopworkTransformer("letters", tap="letters"), ["a"], topwork.InvalidInput, "token"),
        (TopworkTransformer("letters", tap="nosuch"), ["a"], topwork.NotFound, "nosuch"),
        (TopworkTransformer("letters", server="127.0.0.1:1"), ["a"], topwork.Unavailable, "127.0.0.1:1"),
        (TopworkTransformer("letters"), "a lone text", topwork.InvalidInput, "lone str"),
        (TopworkTransformer("letters"), [], topwork.InvalidInput, "no item"),
        (TopworkTransformer("letters"), np.array([["a", "b"]]), topwork.InvalidInput, "2 columns"),
    ],
)
def test_what_cannot_be_fitted_is_refused(transformer: Any, items: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        transformer.fit(items)


def test_a_bad_item_is_named_and_rows_of_another_encoder_are_refused() -> None:
    transformer = TopworkTransformer("letters").fit(TEXTS)
    with pytest.raises(topwork.InvalidInput, match="empty") as raised:
        transformer.transform(["a", ""])
    assert raised.value.item == 1
    transformer.fingerprint_ = "0" * 64
    with pytest.raises(topwork.NotReady, match="fingerprint"):
        transformer.transform(["a"])


def test_a_classifier_of_texts_leaves_nothing_behind(left: Callable[..., bool], client: topwork.Client) -> None:
    classifier = TopworkClassifier("letters")
    with pytest.raises(NotFittedError):
        classifier.predict(TEXTS)
    classifier.fit(TEXTS, LABELS)
    assert left(classifier.head_)
    assert list(classifier.classes_) == ["one", "two"]
    assert classifier.score(TEXTS, LABELS) == 1
    probabilities = classifier.predict_proba(["abca", "xyzx"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert probabilities.argmax(axis=1).tolist() == [0, 1]
    assert classifier.fingerprint_ == client.embed("letters", ["a"]).fingerprint
    assert classifier.report().metrics[0].name == "accuracy"
    first = classifier.head_
    classifier.fit(TEXTS, np.array(LABELS) == "one")
    assert list(classifier.classes_) == [False, True]
    assert left(classifier.head_)
    assert first != classifier.head_
    del classifier
    assert left()


def test_a_fit_that_fails_leaves_nothing_behind(left: Callable[..., bool]) -> None:
    with pytest.raises(topwork.InvalidInput, match="2 are needed"):
        TopworkClassifier("letters").fit(["a", "b", "c"], ["one", "one", "two"])
    with pytest.raises(topwork.InvalidInput, match="nosuch"):
        TopworkClassifier("letters", kind="nosuch").fit(TEXTS, LABELS)
    with pytest.raises(topwork.InvalidInput, match="one class"):
        TopworkClassifier("letters").fit(TEXTS, ["one"] * 12)
    assert left()


def test_a_named_head_stays_and_is_replaced_only_where_that_is_asked(client: topwork.Client) -> None:
    TopworkClassifier("letters", name="kept").fit(TEXTS, LABELS)
    gc.collect()
    assert client.predict("kept", ["abca"])[0].label == "one"
    other = TopworkClassifier("letters", name="kept")
    with pytest.raises(topwork.AlreadyExists, match="kept"):
        other.fit(TEXTS, LABELS)
    other.set_params(replace=True).fit(TEXTS, LABELS[::-1])
    assert client.predict("kept", ["abca"])[0].label == "two"
    other.set_params(replace=False).fit(TEXTS, LABELS)  # its own
    other.drop()
    with pytest.raises(topwork.NotFound):
        client.head("kept")
    assert "kept" not in {info.name for info in client.sets()}


def test_a_pickled_classifier_keeps_its_head(left: Callable[..., bool]) -> None:
    classifier = TopworkClassifier("letters").fit(TEXTS, LABELS)
    pickled = pickle.dumps(classifier)
    del classifier
    assert left(pickle.loads(pickled).head_)
    again = pickle.loads(pickled)
    assert again.predict(["abca"]) == ["one"]
    again.drop()
    assert left()
    with pytest.raises(NotFittedError):
        again.predict(["abca"])


def test_a_search_over_classifiers(left: Callable[..., bool]) -> None:
    search = GridSearchCV(TopworkClassifier("letters"), {"kind": ["linear", "prototype"]}, cv=2, n_jobs=2).fit(TEXTS, LABELS)
    assert search.best_score_ == 1
    assert left(search.best_estimator_.head_)
    search.best_estimator_.drop()


def test_what_the_page_shows_runs(shown: Callable[[str], dict[str, Any]]) -> None:
    found = shown("sklearn")
    assert found["pipeline"].score(found["texts"], found["topics"]) > 0.5
    assert list(found["head"].classes_) == ["fault", "money"]
