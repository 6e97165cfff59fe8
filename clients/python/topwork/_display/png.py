"""Pixels as a PNG file, without Pillow."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Encode (height, width) as a PNG of 8-bit gray, (height, width, 3) as one of colors (ISO/IEC 15948, sections 5 and 11.2)."""
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height, -1)
    lines = np.zeros((height, flat.shape[1] + 1), np.uint8)  # before each line its filter: 0, none
    lines[:, 1:] = flat
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
