from __future__ import annotations

from pathlib import Path

import pytest
from topwork_server.errors import StartError
from topwork_server.runtime import providers, session_factory
from topwork_server.runtime.providers import PLAIN, Device, candidates, everywhere
from topwork_server.runtime.session_factory import check_provider

FP32, BF16 = Device("openvino"), Device("openvino", "bf16")


@pytest.mark.parametrize(
    ("asked", "gpu", "openvino", "amx", "found"),
    [
        ("auto", False, True, True, (BF16, FP32, PLAIN)),
        ("auto", False, True, False, (FP32, PLAIN)),
        ("auto", False, False, True, (PLAIN,)),
        ("auto", True, True, True, (Device("cuda", "fp16"), Device("cuda"))),
        ("cpu", True, True, True, (PLAIN,)),
        ("openvino", True, True, True, (BF16, FP32)),
        ("openvino", False, True, False, (FP32,)),
        ("cuda", False, True, True, (Device("cuda", "fp16"), Device("cuda"))),
        ("tensorrt", True, True, True, (Device("tensorrt", "fp16"), Device("tensorrt"))),
    ],
)
def test_candidates(
    asked: str, gpu: bool, openvino: bool, amx: bool, found: tuple[Device, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(providers, "has_openvino", lambda: openvino)
    monkeypatch.setattr(providers, "cpu_flags", lambda: frozenset({"amx_bf16"} if amx else ()))
    assert candidates(asked) == found


def test_every_gpu_computes_and_the_cpu_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_nvidia_gpus", lambda: [Path("/dev/nvidia0"), Path("/dev/nvidia1")])
    assert everywhere(Device("cuda", "fp16")) == (Device("cuda", "fp16", 0), Device("cuda", "fp16", 1))
    assert everywhere(BF16) == (BF16,)
    assert everywhere(PLAIN) == (PLAIN,)


def test_what_is_no_provider_is_refused_by_name() -> None:
    with pytest.raises(StartError, match="there is no provider 'warp'") as caught:
        check_provider("warp")
    assert "openvino" in caught.value.remedy


@pytest.mark.skipif(providers.has_nvidia_gpu(), reason="there is a GPU")
@pytest.mark.parametrize("asked", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_here_is_refused(asked: str) -> None:
    with pytest.raises(StartError, match=f"{asked} needs an NVIDIA GPU") as caught:
        check_provider(asked)
    assert "--provider cpu" in caught.value.remedy


@pytest.mark.skipif(providers.has_nvidia_gpu(), reason="there is a GPU")
@pytest.mark.parametrize("asked", ["cuda", "tensorrt"])
def test_a_driver_without_libraries_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_factory, "has_nvidia_gpu", lambda: True)
    with pytest.raises(StartError, match=f"{asked} is not available here"):
        check_provider(asked)


def test_openvino_that_is_not_installed_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from topwork_server.runtime import openvino_session

    monkeypatch.setattr(openvino_session, "openvino_installed", lambda: False)
    with pytest.raises(StartError, match="openvino is not installed") as caught:
        check_provider("openvino")
    assert "pip install onnxruntime-ep-openvino" in caught.value.remedy


def test_what_was_asked_for_is_said_as_it_came_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "has_nvidia_gpu", lambda: False)
    assert check_provider("cpu") == "cpu"
    assert check_provider("auto") == ("openvino or cpu" if providers.has_openvino() else "cpu")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("model name\t: vnni\nflags\t\t: fpu avx_vnni\n\nflags\t: amx_bf16\n", {"fpu", "avx_vnni"}),
        ("Features\t: fp asimddp\n", {"fp", "asimddp"}),
        ("", set()),
        (None, set()),
    ],
)
def test_what_a_processor_can_is_read(text: str | None, flags: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr(providers, "CPUINFO", cpuinfo)
    monkeypatch.setattr(providers, "cpu_facts", providers.cpu_facts.__wrapped__)
    assert providers.cpu_flags.__wrapped__() == flags
