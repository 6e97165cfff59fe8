"""Samples of sound as the bytes of a WAV file, exact: as 32-bit floats, or as 16-bit integers."""

from __future__ import annotations

import struct

import numpy as np

from topwork.errors import InvalidInput
from topwork.features import Array

#: WAVE_FORMAT_PCM and WAVE_FORMAT_IEEE_FLOAT, by dtype.
FORMATS = {"int16": 1, "float32": 3}
HIGHEST_RATE = 2**32 - 1


def encode(samples: Array, rate: float) -> bytes:
    """Return the WAV file of (n,) float32 (full scale is 1) or int16, `rate` samples a second. float64 becomes float32.

    InvalidInput for other shapes and dtypes, and for a rate that is not a whole number above 0.
    """
    if samples.dtype == np.float64:
        samples = samples.astype(np.float32)
    if samples.ndim != 1 or samples.dtype.name not in FORMATS:
        raise InvalidInput(
            f"samples {samples.shape} of {samples.dtype} are no recording of one channel",
            remedy="pass an array (n,) of float32 or int16; of several channels their mean",
        )
    if not 0 < rate <= HIGHEST_RATE or rate != int(rate):
        raise InvalidInput(f"the rate of a recording is {rate}", remedy="pass its samples a second, a whole number such as 16000")
    data, width = samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes(), samples.dtype.itemsize
    layout = struct.pack("<HHIIHH", FORMATS[samples.dtype.name], 1, int(rate), int(rate) * width % 2**32, width, 8 * width)
    return b"".join(
        (
            b"RIFF",
            struct.pack("<I", 36 + len(data)),
            b"WAVEfmt ",
            struct.pack("<I", 16),
            layout,
            b"data",
            struct.pack("<I", len(data)),
            data,
        )
    )
