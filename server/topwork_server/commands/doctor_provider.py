"""The question of `topwork doctor` about what computes: each device runs a small graph."""

from __future__ import annotations

import json

from topwork_server.commands.doctor_checks import Finding, Grade, imports

PROBE = """
import json, sys
from topwork_server.errors import StartError
from topwork_server.runtime.session_factory import probe
from topwork_server.runtime.providers import candidates
reasons = {}
try:
    for device in candidates(sys.argv[1]):
        reasons[str(device)] = ""
        try:
            probe(device)
        except StartError as error:
            reasons[str(device)] = error.message
except StartError as error:
    raise SystemExit(error.message)
print(json.dumps(reasons))
"""
GPU = "for a GPU run `pip install 'topwork-server[gpu]'` and check its driver"
OPENVINO = "run `pip install onnxruntime-ep-openvino`"


def provider(asked: str) -> Finding:
    """Check which devices may compute for `--provider asked`. Of auto's candidates one must work; the others are measured, or
    left out."""
    found = imports(PROBE, asked)
    if found.grade is Grade.FAIL:
        return Finding(Grade.FAIL, found.detail, "serve with --provider cpu")
    reasons: dict[str, str] = json.loads(found.detail)
    works = [device for device, reason in reasons.items() if not reason]
    fails = list(dict.fromkeys(reason for reason in reasons.values() if reason))
    if fails:
        bad = Grade.WARN if works and asked == "auto" else Grade.FAIL
        return Finding(bad, "; ".join([*_running(works), *fails]), f"serve with --provider cpu, or {_cure(list(reasons))}")
    return _without_openvino(_running(works)[0]) if asked == "auto" else Finding(Grade.OK, _running(works)[0])


def _running(devices: list[str]) -> list[str]:
    each = ": which of them computes an encoder is measured when it is first used" if devices[1:] else ""
    return [f"{', '.join(devices)} ran a graph{each}"] if devices else []


def _cure(devices: list[str]) -> str:
    return OPENVINO if any(device.startswith("openvino") for device in devices) else GPU


def _without_openvino(detail: str) -> Finding:
    """Say why OpenVINO is left out: a fault of the installed plugin, or a processor that it would make three times as fast."""
    from topwork_server.runtime.providers import cpu_flags, has_nvidia_gpu, openvino_fault, openvino_installed

    if has_nvidia_gpu():
        return Finding(Grade.OK, detail)
    if openvino_installed():
        fault = openvino_fault()
        return Finding(Grade.OK, f"{detail}; openvino is left out: {fault}" if fault else detail)
    if "amx_bf16" in cpu_flags():
        return Finding(Grade.WARN, detail, f"{OPENVINO}: in bf16 this processor is some three times as fast")
    return Finding(Grade.OK, detail)
