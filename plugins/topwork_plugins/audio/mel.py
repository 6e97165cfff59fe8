"""Filters of the mel scale, as transformers.audio_utils.mel_filter_bank gives them."""

from __future__ import annotations

import numpy as np
from topwork_server import Array


def slaney_filters(bins: int, frequencies: int, rate: int, highest: float) -> Array:
    """(bins, frequencies) float64 from 0 Hz to `highest`, each of the same area (Slaney 1998, *Auditory Toolbox*)."""
    edges = _slaney_hertz(np.linspace(0.0, _slaney_mel(highest), bins + 2))
    return _triangles(edges, np.linspace(0, rate // 2, frequencies)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def kaldi_filters(bins: int, frequencies: int, rate: int, lowest: float) -> Array:
    """(bins, frequencies) float64 from `lowest` Hz to half the rate, of the same height, straight on the mel scale (Kaldi)."""
    edges = np.linspace(_kaldi_mel(np.asarray(lowest)), _kaldi_mel(np.asarray(rate // 2)), bins + 2)
    return _triangles(edges, _kaldi_mel(rate / (2 * (frequencies - 1)) * np.arange(frequencies)))


def _triangles(edges: Array, at: Array) -> Array:
    """Rise from edge n to n + 1, and fall to n + 2."""
    from_edges, widths = at[None] - edges[:, None], np.diff(edges)[:, None]
    return np.maximum(0, np.minimum(from_edges[:-2] / widths[:-1], -from_edges[2:] / widths[1:]))


def _slaney_mel(hertz: float) -> float:
    """Straight up to 1000 Hz, which are 15, then by logarithm."""
    return float(3 * hertz / 200 if hertz < 1000 else 15 + np.log(hertz / 1000) * 27 / np.log(6.4))


def _slaney_hertz(mel: Array) -> Array:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


def _kaldi_mel(hertz: Array) -> Array:
    return np.asarray(1127 * np.log(1 + hertz / 700))
