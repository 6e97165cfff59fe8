"""What this processor does with products of bytes."""

from __future__ import annotations

from pathlib import Path

#: Of /proc/cpuinfo: sums of four byte products in 32 bits (x86), and the same on Arm.
EXACT = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def multiplies_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether byte products are summed without overflow; False where it cannot be told."""
    try:
        text = cpuinfo.read_text("utf-8")
    except OSError:
        return False
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return any(EXACT & set(line.split()) for line in lines)
