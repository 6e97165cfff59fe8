"""Options of onnxruntime's CUDA and TensorRT providers, with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork_server.runtime.gpu.shape_buckets import MOST_ROWS, Axes
from topwork_server.runtime.providers import Device

GIB = 1 << 30
#: Sizes that TensorRT makes its engine for: the least, the likely, the most of rows and of a dynamic axis.
ROW_PROFILE = (1, 32, MOST_ROWS)
AXIS_PROFILE = (8, 64, 512)
#: One engine is made for the whole range: at the far corner (512 rows of 512 tokens) no batch ever is, and its workspace would be
#: larger than any GPU's memory.
WIDE_ROWS = 128

Providers = list[tuple[str, dict[str, Any]]]


def providers(device: Device, folder: Path, inputs: Mapping[str, Axes], *, graphs: bool, planes: int) -> Providers:
    """Providers in the order of preference. `graphs`: capture CUDA graphs; `planes`: the axes of pictures (2) or videos (3) that
    the graph convolves over, 0 for none."""
    cpu: Providers = [("CPUExecutionProvider", {})]
    if device.provider == "cpu":
        return cpu
    cuda: Providers = [("CUDAExecutionProvider", cuda_options(device, graphs=graphs, planes=planes))]
    if device.provider == "cuda":
        # Shape arithmetic runs on the CPU by design.
        return [*cuda, *cpu]
    return [("TensorrtExecutionProvider", tensorrt_options(device, folder, inputs)), *cuda, *cpu]


def cuda_options(device: Device, *, graphs: bool, planes: int) -> dict[str, Any]:
    return {
        "device_id": device.index,
        # The default doubles what it takes at each step, and several encoders share a GPU.
        "arena_extend_strategy": "kSameAsRequested",
        # Every algorithm is timed once a shape: there are few shapes. HEURISTIC may pick one that is twice as slow.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": 1,
        # Convolutions in fp16 run on tensor cores with channels last; there are no such kernels for videos.
        "prefer_nhwc": int(planes == 2 and device.precision == "fp16"),
        # Else "fp32" would mean 10 bits of mantissa.
        "use_tf32": 0,
        "enable_cuda_graph": int(graphs),
        "do_copy_in_default_stream": 1,
    }


def tensorrt_options(device: Device, folder: Path, inputs: Mapping[str, Axes]) -> dict[str, Any]:
    """Engines take minutes to make: they are kept in the artifact's folder, and TensorRT's key holds the GPU and its version."""
    least, likely, most = (_profile(inputs, i) for i in range(3))
    return {
        "device_id": device.index,
        "trt_fp16_enable": device.precision == "fp16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder / "tensorrt"),
        "trt_engine_cache_prefix": f"{device.precision}-{device.index}",
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder / "tensorrt"),
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": likely,
        "trt_profile_max_shapes": most,
        "trt_max_workspace_size": 8 * GIB,
        "trt_builder_optimization_level": 3,
        "trt_layer_norm_fp32_fallback": device.precision == "fp16",
        "trt_context_memory_sharing_enable": True,
    }


def _profile(inputs: Mapping[str, Axes], which: int) -> str:
    """TensorRT's notation: "ids:1x8,mask:1x8"."""
    wide = any(isinstance(axis, str) for axes in inputs.values() for axis in axes[1:])
    rows = min(ROW_PROFILE[which], WIDE_ROWS) if wide else ROW_PROFILE[which]
    return ",".join(
        f"{name}:" + "x".join(str(rows if i == 0 else _size(axis, which)) for i, axis in enumerate(axes))
        for name, axes in inputs.items()
    )


def _size(axis: str | int, which: int) -> int:
    """A dynamic axis is "tokens", or "8*eighths": a multiple of 8 (frames of a video, 16 as a rule)."""
    if isinstance(axis, int):
        return axis
    step, star, _ = axis.partition("*")
    return (max(int(step), 8), 16, 64)[which] if star and step.isdigit() else AXIS_PROFILE[which]
