"""Makes a graph's inputs of a window of samples, as transformers' feature extractors do: numbers as they are, or spectrograms.

In numpy alone: it runs in the server.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from topwork_server import Array

from topwork_plugins.audio.mel import kaldi_filters, slaney_filters

FILE = "sound.json"
#: Kaldi's and Whisper's: samples of a column of a spectrogram at 16 kHz, and from one column to the next.
FRAME, HOP = 400, 160


@dataclass(frozen=True)
class SoundRecipe(ABC):
    """The preprocessing of a model: `rate` in samples a second, `longest` (None: any) and `least` samples of a window."""

    rate: int
    kind: ClassVar[str]

    @property
    @abstractmethod
    def longest(self) -> int | None: ...

    @property
    def least(self) -> int:
        return FRAME

    @abstractmethod
    def inputs(self, samples: Array) -> dict[str, Array]:
        """Return the graph's inputs, without their batch axis, for (n,) float32 samples of `least` to `longest`."""

    def json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(self.json()))


@dataclass(frozen=True)
class SampleRecipe(SoundRecipe):
    """Samples as they are, or with `normalize` with a mean of 0 and a variance of 1 (Wav2Vec2FeatureExtractor)."""

    normalize: bool
    shortest: int

    kind = "samples"

    @property
    def longest(self) -> None:
        return None

    @property
    def least(self) -> int:
        return self.shortest

    def inputs(self, samples: Array) -> dict[str, Array]:
        if self.normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return {"samples": samples.astype(np.float32)}


@dataclass(frozen=True)
class MelRecipe(SoundRecipe):
    """Mel spectrograms of `columns` columns, in which what a recording lacks is silent. The input `frames` says how many of the
    net's `positions`, one every `stride` columns, have sound in them."""

    bins: int
    columns: int
    stride: int
    positions: int

    @property
    def longest(self) -> int:
        return self.columns * HOP

    def inputs(self, samples: Array) -> dict[str, Array]:
        columns = -(-len(samples) // HOP)
        frames = min(self.positions, -(-columns // self.stride))
        return {"spectrogram": self.spectrogram(samples), "frames": np.asarray(frames, np.int64)}

    @abstractmethod
    def spectrogram(self, samples: Array) -> Array: ...


class WhisperRecipe(MelRecipe):
    """The logarithm of the power to base 10, down to 8 below the loudest (Radford et al. 2022; WhisperFeatureExtractor)."""

    kind = "whisper"

    @cached_property
    def filters(self) -> Array:
        return slaney_filters(self.bins, FRAME // 2 + 1, self.rate, 8000.0)

    def spectrogram(self, samples: Array) -> Array:
        """Return (bins, columns) float32."""
        whole = np.zeros(self.longest, np.float32)
        whole[: len(samples)] = samples
        framed = _framed(np.pad(whole, FRAME // 2, "reflect"))[: self.columns]
        power = _power(framed * np.hanning(FRAME + 1)[:-1], FRAME)
        found = np.log10(np.maximum(self.filters @ power.T, 1e-10))
        return np.asarray((np.maximum(found, found.max() - 8.0) + 4.0) / 4.0, np.float32)


@dataclass(frozen=True)
class FbankRecipe(MelRecipe):
    """Kaldi's filter banks, scaled by the mean and the deviation of a training set where they are given (Gong et al. 2021;
    ASTFeatureExtractor)."""

    mean: float
    std: float

    kind = "fbank"

    @cached_property
    def filters(self) -> Array:
        return kaldi_filters(self.bins, 257, self.rate, 20.0)

    def spectrogram(self, samples: Array) -> Array:
        """Return (columns, bins) float32."""
        framed = _framed(samples)
        framed = framed - framed.mean(axis=1, keepdims=True)
        framed = np.concatenate([framed[:, :1] * 0.03, framed[:, 1:] - 0.97 * framed[:, :-1]], axis=1)
        found = np.log(np.maximum(_power(framed * np.hanning(FRAME), 512) @ self.filters.T, 2.0**-23))[: self.columns]
        whole = np.zeros((self.columns, self.bins), np.float32)
        whole[: len(found)] = found
        return np.asarray((whole - self.mean) / (self.std * 2), np.float32)


def _framed(samples: Array) -> Array:
    """Return (columns, FRAME) float64, a column every HOP samples."""
    return np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::HOP]


def _power(framed: Array, points: int) -> Array:
    spectrum = np.fft.rfft(framed, points, axis=1).astype(np.complex64)
    return np.asarray(np.abs(spectrum).astype(np.float64) ** 2)


def read_recipe(folder: Path) -> SoundRecipe:
    """Read what `SoundRecipe.write` wrote."""
    said: Mapping[str, Any] = json.loads((folder / FILE).read_text())
    kinds: Mapping[str, type[SoundRecipe]] = {kind.kind: kind for kind in (SampleRecipe, WhisperRecipe, FbankRecipe)}
    return kinds[said["kind"]](**{key: value for key, value in said.items() if key != "kind"})
