"""What the providers are told; none of this runs on a GPU here."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from topwork_server.runtime.gpu.provider_options import cuda_options, providers, tensorrt_options
from topwork_server.runtime.gpu.rw_lock import CaptureLock
from topwork_server.runtime.providers import Device

TEXT = {"ids": ("batch", "tokens"), "mask": ("batch", "tokens")}
CLIPS = {"clips": ("batch", 3, "8*eighths", 224, 224)}


def test_the_order_of_providers_ends_on_the_cpu_for_shape_arithmetic() -> None:
    def names(device: Device) -> list[str]:
        return [name for name, _ in providers(device, Path("a"), TEXT, graphs=False, planes=0)]

    assert names(Device("cpu")) == ["CPUExecutionProvider"]
    assert names(Device("cuda", "fp16")) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert names(Device("tensorrt", "fp16"))[0] == "TensorrtExecutionProvider"


@pytest.mark.parametrize(("precision", "planes", "wanted"), [("fp16", 2, 1), ("fp32", 2, 0), ("fp16", 3, 0), ("fp16", 0, 0)])
def test_channels_stand_last_only_for_pictures_in_fp16(precision: str, planes: int, wanted: int) -> None:
    assert cuda_options(Device("cuda", precision), graphs=True, planes=planes)["prefer_nhwc"] == wanted


def test_each_gpu_has_its_own_options_and_fp32_means_fp32() -> None:
    options = cuda_options(Device("cuda", "fp32", 3), graphs=False, planes=0)
    assert (options["device_id"], options["use_tf32"], options["enable_cuda_graph"]) == (3, 0, 0)


def test_tensorrt_is_told_the_range_of_shapes_and_keeps_its_engines_beside_the_graph() -> None:
    options = tensorrt_options(Device("tensorrt", "fp16"), Path("/home/artifacts/a"), TEXT)
    assert options["trt_profile_min_shapes"] == "ids:1x8,mask:1x8"
    assert options["trt_profile_max_shapes"] == "ids:128x512,mask:128x512"
    assert options["trt_engine_cache_path"] == "/home/artifacts/a/tensorrt"
    assert options["trt_fp16_enable"]
    clips = tensorrt_options(Device("tensorrt"), Path("a"), CLIPS)
    assert clips["trt_profile_opt_shapes"] == "clips:32x3x16x224x224"
    assert not clips["trt_fp16_enable"]


def test_onnxruntime_knows_these_options() -> None:
    """A misspelled option would fail only where there is a GPU: the names stand in the provider's library."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    told = {
        "libonnxruntime_providers_cuda.so": cuda_options(Device("cuda"), graphs=True, planes=2),
        "libonnxruntime_providers_tensorrt.so": tensorrt_options(Device("tensorrt"), Path("a"), TEXT),
    }
    for library, options in told.items():
        if not (folder / library).exists():
            pytest.skip("this onnxruntime is built without CUDA")
        text = (folder / library).read_bytes()
        # Short names are written into instructions eight bytes at a time.
        assert [name for name in options if name.encode() not in text and name.encode()[:8] not in text] == []


def test_a_capture_is_alone_and_what_waits_for_it_gets_in_afterwards() -> None:
    gate, order, inside = CaptureLock(), list[str](), threading.Event()
    leave = threading.Event()

    def reader() -> None:
        with gate.shared():
            inside.set()
            leave.wait(10)
            order.append("read")

    def writer() -> None:
        with gate.exclusive():
            order.append("capture")

    threads = [threading.Thread(target=reader), threading.Thread(target=writer)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    with gate.shared():
        order.append("read again")
    assert order == ["read", "capture", "read again"]


def test_no_capture_runs_while_a_session_is_being_opened() -> None:
    gate = CaptureLock()
    with gate.shared(lasting=True):
        with gate.exclusive() as alone:
            assert not alone
        with gate.shared():
            pass  # nothing waits behind a wait that was given up
    with gate.exclusive() as alone:
        assert alone
