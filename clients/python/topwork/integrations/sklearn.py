"""scikit-learn: features of an encoder as a transformer, and a head that the server trains as a classifier."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import numpy as np

from topwork.errors import InvalidInput, TopworkError
from topwork.features import Array
from topwork.integrations._encoder import RemoteEncoder, Role, Server, client_of
from topwork.integrations._extras import needs
from topwork.integrations._owned_heads import OWNED_HEADS

with needs("scikit-learn", "sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import assert_all_finite
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )

#: The columns of the sets that a classifier learns from.
LABEL, WEIGHT = "label", "weight"


class TopworkTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turns items into rows (n, dim) float32 of an encoder of the server; `fit` learns nothing but what these rows are.

    Items are what the encoder reads: texts, pairs of texts (tuples), lists of words (joined by blanks), paths, bytes, PIL images,
    arrays. They come as a list, a Series, an array, or a data frame or array of one column. Of an encoder of arrays, a numeric
    array (n, features) is n of them.

    encoder         its name on the server
    tap             one with a row for each item; None: the encoder's default
    normalize       rows of unit length
    dimensions      keep the first so many numbers of a row; 0 keeps all
    options         what the encoder declares, such as {"truncate": True}
    role            "query" or "document": the prompt that the encoder has for it goes before each item; None: its usual one
    server          "HOST:PORT"; None: $TOPWORK_SERVER, or 127.0.0.1:50051

    After `fit`: `fingerprint_` of the rows. `transform` raises NotReady where the server's encoder has changed since.
    """

    def __init__(
        self,
        encoder: str = "all-minilm-l6-v2",
        *,
        tap: str | None = None,
        normalize: bool = False,
        dimensions: int = 0,
        options: Mapping[str, Any] | None = None,
        role: Role | None = None,
        server: Server = None,
    ) -> None:
        self.encoder = encoder
        self.tap = tap
        self.normalize = normalize
        self.dimensions = dimensions
        self.options = options
        self.role = role
        self.server = server

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Embed the first item, to learn the width of rows and their fingerprint. Raises a TopworkError where it is refused."""
        items = items_of(self, X, reset=True)
        if not items:
            raise InvalidInput("there is no item to fit on", remedy="pass one at least")
        first = self._remote().features(items[:1], self.role)
        self.fingerprint_ = first.fingerprint
        self._n_features_out = first.dim
        return self

    def transform(self, X: Any) -> Array:  # noqa: N803
        """Rows (n, dim) float32, one for each item. Raises a TopworkError with the position of a bad item."""
        check_is_fitted(self)
        items = items_of(self, X, reset=False)
        if not items:
            return np.empty((0, self._n_features_out), np.float32)
        return self._remote(self.fingerprint_).rows(items, self.role)

    def _remote(self, fingerprint: str | None = None) -> RemoteEncoder:
        return RemoteEncoder(
            self.encoder,
            self.server,
            self.tap,
            self.options,
            normalize=self.normalize,
            dimensions=self.dimensions,
            fingerprint=fingerprint,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


class TopworkClassifier(ClassifierMixin, BaseEstimator):
    """A head that the server trains on labeled items, and that predicts on the server.

    `fit` writes the items into a set of their own, trains a head on it, and drops the set. The head has a name of its own and is
    dropped with the estimator, when that is collected or the process ends. With `name` the head stays, for all clients of the
    server. A fitted estimator that was pickled or copied leaves its head there too; `drop()` removes it.

    encoder          its name on the server; None: X are ready vectors (n, features)
    kind             of training: "linear", "mlp", "prototype", "knn" ... (`topwork trainers` lists them, and their options)
    tap              None: the encoder's default
    options          of the kind, such as {"class_weight": "balanced"}
    encoder_options  what the encoder declares
    name             of the head, to keep it. AlreadyExists where another head has it, unless `replace`
    seed             the same seed gives the same head
    server           "HOST:PORT"; None: $TOPWORK_SERVER, or 127.0.0.1:50051

    After `fit`: `classes_`, `head_` (its name on the server), `fingerprint_` (of what the head reads), `report()` for what was
    measured on held-out items.
    """

    def __init__(
        self,
        encoder: str | None = None,
        *,
        kind: str = "linear",
        tap: str | None = None,
        options: Mapping[str, Any] | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        name: str | None = None,
        replace: bool = False,
        seed: int = 0,
        server: Server = None,
    ) -> None:
        self.encoder = encoder
        self.kind = kind
        self.tap = tap
        self.options = options
        self.encoder_options = encoder_options
        self.name = name
        self.replace = replace
        self.seed = seed
        self.server = server

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train the head; items of weight 0 are left out. Raises a TopworkError for items or labels that it cannot learn from."""
        if y is None:
            raise InvalidInput("requires y to be passed, but the target y is None", remedy="pass a label for each item")
        items: Any = self._vectors(X, reset=True) if self.encoder is None else items_of(self, X, reset=True)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(items, y)
        check_classification_targets(y)
        metadata = self._labels(y)
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, np.empty((len(y), 1)), dtype=np.float64)
            used = np.flatnonzero(weights)
            items = items[used] if self.encoder is None else [items[i] for i in used]
            metadata = {LABEL: [metadata[LABEL][i] for i in used], WEIGHT: weights[used].tolist()}
        self._train(items, metadata)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The likeliest class of each item, (n,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Calibrated probabilities (n, classes) float32, in the order of `classes_`. NotFound where the head was dropped."""
        check_is_fitted(self, "head_")
        items: Any = self._vectors(X, reset=False) if self.encoder is None else items_of(self, X, reset=False)
        if not len(items):
            return np.empty((0, len(self.classes_)), np.float32)
        asked = {"vectors": items} if self.encoder is None else {"items": items}
        found = client_of(self.server).predict(self.head_, **asked)
        order = [found.names.index(name) for name in self._names]
        return found.probabilities[:, order]  # type: ignore[no-any-return]

    def report(self) -> Any:
        """The server's `topwork.Report` of the head: metrics on held-out items, learning curve, confusions."""
        check_is_fitted(self, "head_")
        return client_of(self.server).report(self.head_)

    def drop(self) -> None:
        """Remove the head from the server; the estimator is then to be fitted again. Raises NotFound where it is gone."""
        check_is_fitted(self, "head_")
        OWNED_HEADS.release(self.head_)
        client_of(self.server).drop_head(self.head_)
        del self.head_, self.classes_

    def _labels(self, y: Array) -> dict[str, list[Any]]:
        """The column of labels: classes as text where their texts differ, else their positions."""
        self.classes_, positions = np.unique(y, return_inverse=True)
        if len(self.classes_) == 1:
            raise InvalidInput(f"y has one class, {self.classes_[0]}", remedy="label items of another class too")
        texts = [str(value) for value in self.classes_]
        readable = all(texts) and len(set(texts)) == len(texts)
        self._names = texts if readable else [str(i) for i in range(len(texts))]
        return {LABEL: [self._names[i] for i in positions]}

    def _train(self, items: Any, metadata: Mapping[str, Any]) -> None:
        client = client_of(self.server)
        unique = f"sklearn-{uuid.uuid4().hex[:12]}"
        own = getattr(self, "head_", None)
        what: dict[str, Any] = {"vectors": items} if self.encoder is None else {"items": items, "encoder": self.encoder}
        if self.encoder is not None:
            what |= {"options": self.encoder_options, "taps": [self.tap] if self.tap else None}
        try:
            client.write(unique, ids=range(len(items)), metadata=metadata, **what)
            head = client.train(
                unique,
                target=LABEL,
                kind=self.kind,
                name=self.name or unique,
                options=self.options,
                weight=WEIGHT if WEIGHT in metadata else "",
                seed=self.seed,
                replace=self.replace or (self.name is not None and self.name == own),
            )
        finally:
            with suppress(TopworkError):
                client.drop_set(unique)
        if own is not None and own != head.name:
            OWNED_HEADS.drop(own)  # of an earlier fit
        self.head_, self.fingerprint_ = head.name, head.fingerprint
        if self.name is None:
            OWNED_HEADS.own(self, client, head.name)

    def _vectors(self, X: Any, *, reset: bool) -> Array:  # noqa: N803
        return np.ascontiguousarray(validate_data(self, X, reset=reset, dtype=np.float64), np.float32)

    def __getstate__(self) -> Any:
        if hasattr(self, "head_"):
            OWNED_HEADS.release(self.head_)  # the copy reads it, too
        return super().__getstate__()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = self.encoder is not None
        tags.input_tags.two_d_array = self.encoder is None
        return tags


def items_of(estimator: Any, X: Any, *, reset: bool) -> list[Any]:  # noqa: N803
    """The items of X one by one, as `Client.embed` takes them. A numeric array of two axes is checked as scikit-learn does."""
    if hasattr(X, "nnz"):
        raise InvalidInput(f"sparse input is not supported: X is a {type(X).__name__}", remedy="pass an array")
    if isinstance(X, str | bytes | Mapping) or not any(hasattr(X, name) for name in ("__len__", "__iter__", "__array__")):
        raise InvalidInput(f"X is a lone {type(X).__name__}", remedy="pass a list, a Series or an array of items")
    table = _table(X)
    if table is not None and _holds_numbers(table):
        return list(_sendable(validate_data(estimator, X, reset=reset, dtype="numeric")))
    if table is not None and table.ndim == 2:
        if table.shape[1] != 1:
            raise InvalidInput(f"X has {table.shape[1]} columns", remedy="pass one column of items, as ColumnTransformer does")
        X = table[:, 0]  # noqa: N806
    return [_item(value) for value in X]


def _table(X: Any) -> Any:  # noqa: N803
    """X as an array of one or two axes, where it is one, a data frame, or a list of lists of numbers; None for other items."""
    if isinstance(X, list | tuple):
        rows = bool(X) and isinstance(X[0], list | tuple) and bool(X[0]) and isinstance(X[0][0], int | float)
        return np.asarray(X) if rows else None
    values = X.to_numpy() if hasattr(X, "to_numpy") else np.asarray(X) if not hasattr(X, "ndim") else X
    return values if values.ndim in (1, 2) else None


def _holds_numbers(table: Any) -> bool:
    """Tell whether an array holds numbers rather than texts, paths or pictures."""
    if table.dtype == object:
        return bool(table.size and isinstance(table.flat[0], int | float | Mapping))
    return table.dtype.kind not in "US"


def _sendable(values: Array) -> Array:
    """Floats as float32, which arrays are sent as."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _item(value: Any) -> Any:
    """Words become a text; what numpy wraps becomes what Python has."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return str(value) if isinstance(value, np.str_) else value
