"""A feature set as an index of FiftyOne Brain: its items are samples, or patches with a `sample_id`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from topwork.client import Client
from topwork.errors import NotFound
from topwork.features import Array
from topwork.integrations._encoder import client_of
from topwork.integrations._extras import needs
from topwork.integrations.fiftyone.neighbors import METRICS, SAMPLE, Neighbor, NeighborSearch
from topwork.rows import Rows

with needs("fiftyone", "fiftyone"):
    from fiftyone.brain.similarity import DuplicatesMixin, SimilarityIndex

if TYPE_CHECKING:
    from topwork.integrations.fiftyone.similarity import TopworkSimilarityConfig

log = logging.getLogger(__name__)


class TopworkSimilarityIndex(SimilarityIndex, DuplicatesMixin):
    """A feature set as an index. Errors of the server are TopworkErrors."""

    def __init__(self, samples: Any, config: TopworkSimilarityConfig, brain_key: str | None, backend: Any = None) -> None:
        self._model: Any = None
        self._ids: Array | None = None
        self._samples_of: Array | None = None
        SimilarityIndex.__init__(self, samples, config, brain_key, backend=backend)
        DuplicatesMixin.__init__(self)

    @property
    def client(self) -> Client:
        """The connection, which is shared by all of this process."""
        return client_of(self.config.server)

    @property
    def total_index_size(self) -> int:
        try:
            return self.client.set(self.config.set_name).items
        except NotFound:
            return 0

    @property
    def sample_ids(self) -> Array:
        self._read_ids()
        assert self._samples_of is not None
        return self._samples_of

    @property
    def label_ids(self) -> Array | None:
        self._read_ids()
        return self._ids if self._of_patches else None

    @property
    def supports_prompts(self) -> bool:
        """Tell whether it can be asked by texts: the encoder's, or the model's that it was made with."""
        return bool(self.config.supports_prompts or super().supports_prompts)

    def reload(self) -> None:
        self._ids = self._samples_of = None
        super().reload()

    def get_model(self) -> Any:
        """The model of prompts; of an encoder of the server also in a later session."""
        if self._model is None and self.config.encoder is not None:
            self._model = self.config.topwork_model()
        return super().get_model()

    def add_to_index(
        self,
        embeddings: Any,
        sample_ids: Sequence[str],
        label_ids: Sequence[str] | None = None,
        overwrite: bool = True,
        allow_existing: bool = True,
        warn_existing: bool = False,
        reload: bool = True,
    ) -> None:
        """Write embeddings (n, dim) into the set, which is made where it is not there."""
        ids = np.asarray(sample_ids if label_ids is None else label_ids, str)
        rows, samples = np.asarray(embeddings, np.float32), np.asarray(sample_ids, str)
        if not (overwrite and allow_existing and not warn_existing):
            existing = set(self._stored_ids(ids))
            _tell(existing, "already exist", allow_existing, warn_existing, "Overwriting" if overwrite else "Skipping")
            if not overwrite:
                fresh = np.array([one not in existing for one in ids], bool)
                ids, rows, samples = ids[fresh], rows[fresh], samples[fresh]
        if len(ids):
            self._write(ids, rows, None if label_ids is None else samples)
        if reload:
            self.reload()

    def remove_from_index(
        self,
        sample_ids: Sequence[str] | None = None,
        label_ids: Sequence[str] | None = None,
        allow_missing: bool = True,
        warn_missing: bool = False,
        reload: bool = True,
    ) -> None:
        """Delete items of the set: patches by their label ids or by the ids of their samples."""
        selected = self._selected(sample_ids, label_ids, allow_missing, warn_missing, with_rows=False)
        self.client.delete(self.config.set_name, selected.ids)
        if reload:
            self.reload()

    def get_embeddings(
        self,
        sample_ids: str | Sequence[str] | None = None,
        label_ids: str | Sequence[str] | None = None,
        allow_missing: bool = True,
        warn_missing: bool = False,
    ) -> tuple[Array, Array, Array | None]:
        """Embeddings (n, dim), with the ids of their samples and labels, in the order of the set."""
        found = self._selected(sample_ids, label_ids, allow_missing, warn_missing)
        ids = np.array(found.ids, str)
        if not self._of_patches:
            return _rows_of(found), ids, None
        return _rows_of(found), np.array(found.metadata[SAMPLE], str), ids

    def cleanup(self) -> None:
        """Drop the set."""
        try:
            self.client.drop_set(self.config.set_name)
        except NotFound:
            log.info("The set %s is not there any more", self.config.set_name)

    @classmethod
    def _from_dict(cls, d: Any, samples: Any, config: TopworkSimilarityConfig, brain_key: str) -> Self:
        return cls(samples, config, brain_key)

    @property
    def _of_patches(self) -> bool:
        return self.config.patches_field is not None

    def _write(self, ids: Array, rows: Array, samples: Array | None) -> None:
        is_new = self.total_index_size == 0
        of_encoder = {}
        if self.config.encoder is not None:
            remote = self.config.topwork_model().remote
            of_encoder = {"encoder": remote.encoder, "fingerprint": remote.known_fingerprint()}
            of_encoder |= {"taps": [remote.tap]} if remote.tap else {}
        metadata = None if samples is None else {SAMPLE: samples.tolist()}
        self.client.write(self.config.set_name, ids=ids.tolist(), vectors=rows, metadata=metadata, **of_encoder)
        if is_new and self.config.index_kind:
            self.client.create_index(self.config.set_name, kind=self.config.index_kind, metric=METRICS[self.config.metric])

    def _read_ids(self) -> None:
        if self._ids is None:
            found = self._read(ids=None, taps=[])
            self._ids = np.array(found.ids, str)
            self._samples_of = np.array(found.metadata[SAMPLE], str) if self._of_patches else self._ids

    def _read(self, ids: Collection[str] | None, *, taps: Sequence[str] | None = None) -> Rows:
        """Items of the set by id, all for None; none where there is no set."""
        try:
            return self.client.read(self.config.set_name, ids=ids, taps=taps, columns=[SAMPLE] if self._of_patches else [])
        except NotFound:
            return Rows([], {}, {SAMPLE: []})

    def _stored_ids(self, ids: Iterable[str]) -> list[str]:
        return self._read(list(ids), taps=[]).ids

    def _selected(
        self,
        sample_ids: str | Sequence[str] | None,
        label_ids: str | Sequence[str] | None,
        allow_missing: bool,
        warn_missing: bool,
        *,
        with_rows: bool = True,
    ) -> Rows:
        """Items of the set by the ids of their labels or samples, all where there are none."""
        if label_ids is not None and not self._of_patches:
            raise ValueError("This index does not support label IDs")
        asked = sample_ids if label_ids is None else label_ids
        wanted = None if asked is None else [asked] if isinstance(asked, str) else [str(one) for one in asked]
        ids, present = wanted, None
        if wanted is not None and label_ids is None and self._of_patches:
            of_samples = np.isin(self.sample_ids, wanted)
            assert self._ids is not None
            ids, present = self._ids[of_samples].tolist(), set(self.sample_ids[of_samples])
        found = self._read(ids, taps=None if with_rows else [])
        missing = set(wanted or ()) - (present if present is not None else set(found.ids))
        _tell(missing, "do not exist", allow_missing, warn_missing, "Skipping")
        return found

    def _kneighbors(
        self,
        query: Any = None,
        k: int | None = None,
        reverse: bool = False,
        aggregation: str | None = None,
        return_dists: bool = False,
    ) -> Any:
        if aggregation not in (None, "mean"):
            raise ValueError(f"Unsupported aggregation {aggregation!r}")
        if reverse and not self.config.supports_least_similarity:
            raise ValueError("An index of Euclidean distances does not support least similarity queries")
        if query is None:
            return self._neighbors_of_all(k, None, return_dists)
        vectors = self._vectors(query)
        if aggregation == "mean" and vectors.ndim == 2:
            vectors = vectors.mean(axis=0)
        return self._as_asked(self._nearest(np.atleast_2d(vectors), k, reverse), vectors.ndim == 1, return_dists)

    def _radius_neighbors(self, query: Any = None, thresh: float = 0.0, return_dists: bool = False) -> Any:
        if query is None:
            return self._neighbors_of_all(None, thresh, return_dists)
        vectors = self._vectors(query)
        return self._as_asked(self._nearest(np.atleast_2d(vectors), None, within=thresh), vectors.ndim == 1, return_dists)

    def _neighbors_of_all(self, k: int | None, within: float | None, return_dists: bool) -> Any:
        """Find for each item of the view its neighbors' positions in it, without its own, and their distances."""
        ids = self._current_ids()
        position = {one: i for i, one in enumerate(ids)}
        inds, dists = [], []
        found = self._nearest(self._vectors(ids), None if k is None else k + 1, within=within) if ids else []
        for own, neighbors in zip(ids, found, strict=True):
            others = [neighbor for neighbor in neighbors if neighbor.id != own][:k]
            inds.append(np.array([position[neighbor.id] for neighbor in others], int))
            dists.append(np.array([neighbor.distance for neighbor in others]))
        return (inds, dists) if return_dists else inds

    def _as_asked(self, found: list[list[Neighbor]], is_single: bool, return_dists: bool) -> Any:
        """Ids of samples and of labels, and distances: lists for a single query, and else lists of lists."""
        samples = [[neighbor.sample for neighbor in neighbors] for neighbors in found]
        labels = [[neighbor.id for neighbor in neighbors] for neighbors in found] if self._of_patches else None
        dists = [[neighbor.distance for neighbor in neighbors] for neighbors in found]
        answers = [one[0] if is_single and one is not None else one for one in (samples, labels, dists)]
        return tuple(answers) if return_dists else tuple(answers[:2])

    def _current_ids(self) -> list[str]:
        """Ids of the items of the view: those of labels where the set is of patches."""
        return [str(one) for one in (self.current_label_ids if self._of_patches else self.current_sample_ids)]

    def _nearest(
        self, vectors: Array, k: int | None, reverse: bool = False, *, within: float | None = None
    ) -> list[list[Neighbor]]:
        """Find for each vector the nearest items of the view, or the farthest."""
        view = set(self._current_ids()) if self.has_view else None
        if k == 0 or view == set() or not self.total_index_size:
            return [[] for _ in vectors]
        config = self.config
        found = NeighborSearch(self.client, config.set_name, config.metric, bool(config.index_kind), self._of_patches, view)
        return found.farthest(vectors, k) if reverse else found.nearest(vectors, k, within)

    def _vectors(self, query: Any) -> Array:
        """Vectors (dim,) or (n, dim) of a query by vectors or by ids, in their order."""
        given = np.asarray(query)
        if np.issubdtype(given.dtype, np.number):
            return given.astype(np.float32)
        ids = [str(one) for one in np.atleast_1d(given)]
        found = self._read(ids)
        row_of = dict(zip(found.ids, _rows_of(found), strict=True))
        if missing := [one for one in ids if one not in row_of]:
            raise ValueError(f"Query IDs {missing} were not found in the index")
        vectors = np.stack([row_of[one] for one in ids])
        return vectors[0] if given.ndim == 0 else vectors


def _rows_of(found: Rows) -> Array:
    """(items, dim) float32 of the set's one tap."""
    for features in found.features.values():
        return features.rows.astype(np.float32)
    return np.empty((0, 0), np.float32)


def _tell(ids: Collection[str], what: str, allowed: bool, warn: bool, doing: str) -> None:
    if ids and not allowed:
        raise ValueError(f"Found {len(ids)} IDs (eg {next(iter(ids))}) that {what} in the index")
    if ids and warn:
        log.warning("%s %d IDs that %s in the index", doing, len(ids), what)
