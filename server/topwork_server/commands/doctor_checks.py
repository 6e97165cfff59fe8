"""The questions that `topwork doctor` asks. Each tries the thing itself rather than reading what claims to have it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from topwork_server.config import OFF, USUAL_HTTP
from topwork_server.plugin_api import example_inputs

GIB = 1 << 30
#: Seconds that a network is given to answer.
PATIENCE = 5


LANCE = """
import sys, tempfile
import pyarrow, lance
with tempfile.TemporaryDirectory(dir=sys.argv[1], prefix=".doctor-") as folder:
    rows = lance.write_dataset(pyarrow.table({"id": ["a", "b"]}), folder + "/set")
    rows.merge_insert("id").when_not_matched_insert_all().execute(pyarrow.table({"id": ["b", "c"]}))
    assert rows.count_rows() == 3 and rows.count_rows("id > 'a'") == 2
    print("lance", lance.__version__, "and pyarrow", pyarrow.__version__, "wrote, merged and filtered a set")
"""


FAISS = """
import faiss, numpy
index = faiss.index_factory(8, "Flat")
index.add(numpy.eye(8, dtype=numpy.float32))
assert index.search(numpy.eye(8, dtype=numpy.float32)[3:4], 1)[1][0, 0] == 3
print("faiss", faiss.__version__, "searched, compiled with", faiss.get_compile_options().strip() or "no options")
"""


class Grade(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """A result of a check, and how to fix it where that is needed."""

    grade: Grade
    detail: str
    remedy: str = ""
    name: str = ""


def python() -> Finding:
    return Finding(Grade.OK, f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Finding:
    """Compare every requirement of this distribution with what is installed."""
    from packaging.requirements import Requirement

    required = [Requirement(text) for text in importlib.metadata.requires("topwork-server") or []]
    needed = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [f"{r.name} {_version(r.name) or 'missing'} (needs {r.specifier})" for r in needed if not _satisfied(r)]
    if wrong:
        return Finding(Grade.FAIL, ", ".join(wrong), "run `pip install topwork-server` again in this environment")
    return Finding(Grade.OK, f"topwork-server {_version('topwork-server')} and its {len(needed)} requirements")


def _satisfied(requirement: object) -> bool:
    from packaging.requirements import Requirement

    assert isinstance(requirement, Requirement)
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def one_onnxruntime() -> Finding:
    """Find `onnxruntime` beside `onnxruntime-gpu`: the one installed last overwrites the files of the other, without a word."""
    gpu, plain = _version("onnxruntime-gpu"), _version("onnxruntime")
    if gpu and plain:
        return Finding(
            Grade.FAIL,
            f"onnxruntime {plain} and onnxruntime-gpu {gpu} share one folder",
            f"run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu=={gpu}`",
        )
    return imports("import onnxruntime; print('onnxruntime', onnxruntime.__version__)")


def export_libraries() -> Finding:
    code = "import topwork_server.models.torch_compat as s, torch; print('torch', torch.__version__, '(only exports load it)')"
    return imports(code)


def faiss() -> Finding:
    return imports(FAISS)


def lance(folder: Path) -> Finding:
    """Write with Lance in the home itself: it may lie on a disk that cannot do what Lance asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    finding = imports(LANCE, str(folder))
    if finding.grade is Grade.FAIL and "ModuleNotFoundError" not in finding.detail:
        return Finding(Grade.FAIL, finding.detail, "choose a folder on a local disk with --home or $TOPWORK_HOME")
    return finding


def imports(code: str, *arguments: str) -> Finding:
    """Run code in a process of its own: libraries print what they miss, and may crash. What it prints last is the finding."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"a Python process ended with status {done.returncode}"
    if done.returncode:
        return Finding(Grade.FAIL, last, "run `pip install topwork-server` again in this environment")
    return Finding(Grade.OK, last)


def video() -> Finding:
    return _decoders("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")


def sound() -> Finding:
    return _decoders("pcm_s16le", "flac", "mp3", "aac", "vorbis", "opus")


def _decoders(*wanted: str) -> Finding:
    import av

    missing = [name for name in wanted if not _decodes(name)]
    if missing:
        return Finding(Grade.WARN, f"PyAV {av.__version__} cannot decode {', '.join(missing)}", "install PyAV's own wheel")
    return Finding(Grade.OK, f"PyAV {av.__version__} decodes {', '.join(wanted)}")


def _decodes(codec: str) -> bool:
    import av

    try:
        return bool(av.codec.Codec(codec, "r").name)
    except ValueError:
        return False


def pictures() -> Finding:
    import simplejpeg

    data = next(picture.data for picture in example_inputs.pictures() if simplejpeg.is_jpeg(picture.data))
    height, width, _ = simplejpeg.decode_jpeg(data).shape
    return Finding(Grade.OK, f"simplejpeg {_version('simplejpeg')} decoded a {width}x{height} photograph")


def plugins() -> Finding:
    from topwork_server.plugin_api.plugin_registry import PluginRegistry

    found = PluginRegistry.load().found()
    encoders, kinds = (sum(map(len, brought)) for brought in zip(*((p.encoders, p.indexes) for p in found), strict=True))
    return Finding(Grade.OK, f"{', '.join(plugin.name for plugin in found)}: {encoders} encoders, {kinds} kinds of index")


def home(folder: Path) -> Finding:
    """Check whether state can be written, and how much."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(Grade.FAIL, f"{folder} cannot be written: {error.strerror}", "choose another with --home or $TOPWORK_HOME")
    free = shutil.disk_usage(folder).free
    if free < 2 * GIB:
        return Finding(
            Grade.FAIL if free < GIB // 2 else Grade.WARN, f"{folder} has {free / GIB:.1f} GiB free", "free some space"
        )
    return Finding(Grade.OK, f"{folder}, {free / GIB:.0f} GiB free")


def lock(folder: Path) -> Finding:
    """Check whether a server has the home. One that answers is no fault."""
    from topwork_server.errors import StartError
    from topwork_server.home_lock import holder

    try:
        found = holder(folder)
    except StartError as error:
        return Finding(Grade.FAIL, error.message, error.remedy)
    return Finding(Grade.OK, f"{folder} is in use by {found}" if found else f"no server runs on {folder}")


def weights(folder: Path) -> Finding:
    """List the encoders that are ready, and check whether pip can fetch the others."""
    from topwork_server.models.catalog import Catalog
    from topwork_server.models.catalog_entry import EncoderState
    from topwork_server.plugin_api.plugin_registry import PluginRegistry
    from topwork_server.services.encoders import readable_entries

    catalog = Catalog(PluginRegistry.load(), folder)
    entries = readable_entries(catalog)
    states = Counter(entry.state for entry in entries)
    detail = ", ".join(f"{states[state]} {state}" for state in EncoderState if states[state]) or "no encoder"
    packaged = [e for e in entries if e.state is EncoderState.ABSENT and e.spec.source.startswith("package:")]
    if not packaged:
        return Finding(Grade.OK, detail)
    if _registry_has(catalog.source(packaged[0].spec.name).location):
        return Finding(Grade.OK, f"{detail}; pip can fetch {', '.join(e.spec.name for e in packaged)}")
    return Finding(
        Grade.WARN if states[EncoderState.READY] else Grade.FAIL,
        f"{detail}, and pip cannot reach its registry",
        "check the network and pip's index settings, or copy packages/ into the home of this machine",
    )


def _registry_has(package: str) -> bool:
    command = [sys.executable, "-m", "pip", "index", "versions", package]
    command += ["--timeout", str(PATIENCE), "--retries", "0", "--disable-pip-version-check", "--no-input"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def hub() -> Finding:
    """Never a failure: the packaged encoders need none."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    use = "hf: and timm: weights"
    if constants.HF_HUB_OFFLINE:
        return Finding(Grade.OK, f"off (HF_HUB_OFFLINE is set): {use} come from its cache alone")
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        pass  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Finding(Grade.OK, f"not reachable ({reason}): {use} can be copied here; packaged ones need no hub")
    return Finding(Grade.OK, f"reachable: {use} can be pulled")


def memory() -> Finding:
    import psutil

    there = psutil.virtual_memory()
    detail = f"{there.available / GIB:.1f} of {there.total / GIB:.1f} GiB available, {os.cpu_count()} processors"
    if there.available < 2 * GIB:
        return Finding(Grade.WARN, detail, "exports take up to 2 GiB: end other programs, or export on another machine")
    return Finding(Grade.OK, detail)


def address(listen: str) -> Finding:
    """Free, or held by a Topwork server that answers."""
    if not (refusal := _cannot_bind(listen)):
        return Finding(Grade.OK, f"{listen} is free")
    if _topwork_answers(listen):
        return Finding(Grade.OK, f"a Topwork server answers on {listen}")
    return Finding(Grade.FAIL, f"{listen}: {refusal}", "choose another with --listen HOST:PORT")


def _cannot_bind(listen: str) -> str:
    """Tell why an address cannot be had, as the system does; "" where it can."""
    from topwork_server.addresses import bind_failure, parse_address

    host, port = parse_address(listen)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return bind_failure(error)
    return ""


def http_address(http: str) -> Finding:
    """The address of HTTP: off, free, or held by a Topwork server that answers. "" is the usual one, in whose place a server
    takes another."""
    import urllib.request

    if http == OFF:
        return Finding(Grade.OK, "HTTP is off (TOPWORK_HTTP)")
    asked, http = bool(http), http or USUAL_HTTP[0]
    if not (refusal := _cannot_bind(http)):
        return Finding(Grade.OK, f"{http} is free")
    try:
        with urllib.request.urlopen(f"http://{http}/openapi.json", timeout=PATIENCE) as answer:
            if json.load(answer)["info"]["title"] == "Topwork":
                return Finding(Grade.OK, f"a Topwork server answers on {http}")
    except (OSError, ValueError, LookupError, TypeError):
        pass
    if not asked and any(not _cannot_bind(other) for other in USUAL_HTTP):
        remedy = "`topwork serve` takes the next free port, and says which; choose one with --http HOST:PORT"
        return Finding(Grade.WARN, f"{http}: {refusal}", remedy)
    return Finding(Grade.FAIL, f"{http}: {refusal}", "choose another with --http HOST:PORT, or leave HTTP out with --http off")


def server(target: str) -> Finding:
    """Check that a Topwork server answers where TOPWORK_SERVER sends clients."""
    from topwork import Client, TopworkError

    try:
        with Client(target, timeout=PATIENCE, retry_for=0) as client:
            client.health("topwork.v1.Encoders")
    except TopworkError as error:
        remedy = (
            error.remedy or f"start one there (`topwork serve --listen {target}`), or set TOPWORK_SERVER to where one listens"
        )
        return Finding(Grade.WARN, f"TOPWORK_SERVER: {error.message}", remedy)
    return Finding(Grade.OK, f"a Topwork server answers on {target} (TOPWORK_SERVER)")


def _topwork_answers(listen: str) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(listen) as channel:
        try:
            question = health_pb2.HealthCheckRequest(service="topwork.v1.Encoders")
            health_pb2_grpc.HealthStub(channel).Check(question, timeout=PATIENCE)
        except grpc.RpcError:
            return False
    return True
