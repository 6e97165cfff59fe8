"""Rows in the basis of their own principal directions, where X'X is diagonal: penalties and curvature act column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from topwork_server import Array

#: Rows handled at a time: fits the processor's caches, and no second copy of all rows is made.
CHUNK = 4096
#: Columns are brought to one variance unasked where the widest is so many times as wide as the middle one.
WIDE = 30.0
#: Directions with less of the largest eigenvalue are rounding errors: of Gram matrices summed in float64, and in float32.
NULL, NULL_SINGLE = 1e-10, 1e-6
#: Multiplications up to which a Gram matrix is summed in float64.
DOUBLE = 2e9


@dataclass(frozen=True)
class PrincipalBasis:
    """A change of coordinates: z = ((row - center) * unit) @ basis, then a 1 for the bias.

    center (dim,) float32; unit: a power of two that brings the rows near 1, so that squares stay finite; basis (dim, rank) and
    back (rank, dim) float32, each the other's inverse on the rows; spectrum (rank + 1,) float64: the diagonal of Z'Z.
    """

    center: Array
    unit: float
    basis: Array
    back: Array
    spectrum: Array

    @property
    def rank(self) -> int:
        return int(self.basis.shape[1])

    def project(self, rows: Array, positions: Array) -> Array:
        """Return the coordinates of rows, (positions, rank + 1) float32."""
        found = np.empty((len(positions), self.rank + 1), np.float32)
        found[:, -1] = 1
        for start, chunk in centered(rows, positions, self.center, self.unit):
            np.matmul(chunk, self.basis, out=found[start : start + len(chunk), :-1])
        return found

    def project_products(self, rows: Array, positions: Array, targets: Array) -> Array:
        """Compute Z' targets, (rank, outputs) float64, of targets (positions, outputs) float32; no row of Z is kept."""
        total = np.zeros((rows.shape[1], targets.shape[1]))
        for start, chunk in centered(rows, positions, self.center, self.unit):
            total += chunk.T @ targets[start : start + len(chunk)]
        return self.basis.T @ total

    def to_raw(self, coefficients: Array) -> tuple[Array, Array]:
        """Turn coefficients (rank + 1, outputs) into weight (outputs, dim) and bias (outputs,) float64 of raw rows."""
        weight = coefficients[:-1].T @ (self.basis.T.astype(np.float64) * self.unit)
        return weight, coefficients[-1] - weight @ self.center

    def from_raw(self, weight: Array, bias: Array) -> Array:
        """Turn weight and bias of raw rows into coefficients; it inverts `to_raw` on the directions that this basis has."""
        return np.vstack([self.back @ (weight.T / self.unit), bias + weight @ self.center])


@dataclass(frozen=True)
class Moments:
    """Sums over rows, seen from an origin that is near all: count, sum (dim,) and Gram matrix (dim, dim), float64, each row as
    often as it counts. They add up, so that folds share the work."""

    origin: Array
    unit: float
    count: float
    total: Array
    gram: Array
    double: bool

    def __add__(self, other: Moments) -> Moments:
        count, total, gram = self.count + other.count, self.total + other.total, self.gram + other.gram
        return Moments(self.origin, self.unit, count, total, gram, self.double)

    def principal_basis(self, standardize: str) -> PrincipalBasis:
        mean = self.total / self.count
        gram = self.gram - self.count * np.outer(mean, mean)
        inverse = _inverse_scale(np.diag(gram).clip(0) / self.count, standardize)
        values, vectors = np.linalg.eigh(gram * inverse * inverse[:, None])
        kept = values > (NULL if self.double else NULL_SINGLE) * max(values[-1], 1e-300)
        center = self.origin + (mean / self.unit).astype(np.float32)
        return _framed(center, self.unit, inverse, vectors[:, kept], values[kept], self.count)


def moments(rows: Array, parts: Sequence[Array], weights: Array | None = None) -> list[Moments]:
    """Compute the moments of each part (positions); the origin is of them all. `weights` (rows,): what each counts for."""
    positions = np.concatenate(parts)
    origin, unit = _origin(rows, np.sort(positions))
    double = float(len(positions)) * rows.shape[1] ** 2 < DOUBLE
    return [_moments(rows, part, origin, unit, double, weights) for part in parts]


def _moments(rows: Array, positions: Array, origin: Array, unit: float, double: bool, weights: Array | None) -> Moments:
    total, gram = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
    for start, chunk in centered(rows, positions, origin, unit):
        chunk = chunk.astype(np.float64) if double else chunk
        often = chunk if weights is None else chunk * weights[positions[start : start + len(chunk)], None]
        total += often.sum(axis=0)
        gram += often.T @ chunk
    count = len(positions) if weights is None else float(weights[positions].sum(dtype=np.float64))
    return Moments(origin, unit, count, total, gram, double)


def principal_basis(rows: Array, positions: Array, standardize: str, weights: Array | None = None) -> PrincipalBasis:
    """Find the basis of the rows at `positions` alone. `standardize` as in LinearOptions; `weights` as for `moments`."""
    if len(positions) >= rows.shape[1]:
        return moments(rows, [positions], weights)[0].principal_basis(standardize)
    return _dual(rows, positions, standardize, weights)


def _dual(rows: Array, positions: Array, standardize: str, weights: Array | None) -> PrincipalBasis:
    """Find the basis through the Gram matrix of the rows, where they are fewer than the columns."""
    origin, unit = _origin(rows, positions)
    whole = np.vstack([chunk.astype(np.float64) for _, chunk in centered(rows, positions, origin, unit)])
    counted = np.ones(len(positions)) if weights is None else weights[positions].astype(np.float64)
    mean = np.average(whole, axis=0, weights=counted)
    whole -= mean
    whole *= np.sqrt(counted)[:, None]
    inverse = _inverse_scale((whole**2).sum(axis=0) / counted.sum(), standardize)
    whole *= inverse
    values, vectors = np.linalg.eigh(whole @ whole.T)
    kept = values > NULL * max(values[-1], 1e-300)
    directions = whole.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    center = origin + (mean / unit).astype(np.float32)
    return _framed(center, unit, inverse, directions, values[kept], counted.sum())


def _framed(center: Array, unit: float, inverse: Array, directions: Array, values: Array, count: float) -> PrincipalBasis:
    basis = directions * inverse[:, None]
    back = directions.T / np.where(inverse > 0, inverse, 1)
    return PrincipalBasis(center, unit, basis.astype(np.float32), back.astype(np.float32), np.append(values, count))


def _inverse_scale(variances: Array, standardize: str) -> Array:
    """Return factors (dim,) float64, one a column or the same for all, that give columns variance 1 in the mean; 0 for
    constants."""
    deviations = np.sqrt(variances)
    varies = deviations > 1e-6 * deviations.max(initial=0)
    if not varies.any():
        return np.zeros(len(variances))
    usual = np.median(deviations[varies])
    if standardize == "never" or (standardize == "auto" and deviations.max() < WIDE * usual):
        return np.where(varies, 1 / np.sqrt(np.mean(variances[varies])), 0.0)
    return np.where(varies, 1 / np.where(varies, deviations, 1), 0.0)


def _origin(rows: Array, positions: Array) -> tuple[Array, float]:
    """Return the mean of some rows, and the unit."""
    peak = 0.0
    for start in range(0, len(positions), CHUNK):
        chunk = _taken(rows, positions[start : start + CHUNK])
        peak = max(peak, float(chunk.max()), -float(chunk.min()))
    some = rows[positions[:: max(1, len(positions) // CHUNK)]]
    unit = 2.0 ** -np.floor(np.log2(peak)) if peak > 0 else 1.0
    return some.mean(axis=0, dtype=np.float64).astype(np.float32), float(unit)


def _taken(rows: Array, positions: Array) -> Array:
    """Take rows, without a copy where they are neighbors."""
    first, end = int(positions[0]), int(positions[-1]) + 1
    return rows[first:end] if end - first == len(positions) else rows[positions]


def centered(rows: Array, positions: Array, center: Array, unit: float) -> Iterator[tuple[int, Array]]:
    """Yield (start, chunk) of the rows, centered and scaled. A chunk is overwritten by the next."""
    buffer = np.empty((min(CHUNK, len(positions)), rows.shape[1]), np.float32)
    for start in range(0, len(positions), CHUNK):
        some = positions[start : start + CHUNK]
        chunk = np.subtract(_taken(rows, some), center, out=buffer[: len(some)])
        chunk *= np.float32(unit)
        yield start, chunk
