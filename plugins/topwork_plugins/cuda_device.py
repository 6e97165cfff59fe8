"""Refuses requests that name CUDA on a machine without a driver for it. Without torch."""

from __future__ import annotations

import sys
from pathlib import Path

from topwork_server import InvalidInput

#: What drivers make on Linux: NVIDIA's, Jetson's, those of Linux within Windows, and AMD's, whose devices torch calls cuda.
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/nvmap"), Path("/dev/dxg"), Path("/dev/kfd"))


def check_device(device: str, precision: str = "auto") -> None:
    """Raise InvalidInput where the options `device` or `precision` ask for CUDA and there is no driver for it. The job finds out
    whether torch sees a device."""
    if sys.platform == "win32" or any(driver.exists() for driver in DRIVERS):
        return
    if device == "cuda":
        raise InvalidInput("device is 'cuda', and there is no CUDA device here", remedy="leave it 'auto', or give 'cpu'")
    if precision == "fp16":
        raise InvalidInput(
            "precision fp16 needs CUDA, and there is no such device here", remedy="leave it 'auto', or give 'bf16'"
        )
