"""Static quantization of an fp32 graph to int8, with a floor for the parity of the default tap."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.features import rows_of
from topwork_server.models import onnx_files
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.models.onnx_graph import ancestors
from topwork_server.runtime import parity
from topwork_server.runtime.parity import ParityBatch, ParityRecord
from topwork_server.runtime.providers import cpu_flags
from topwork_server.runtime.quantization import qdq
from topwork_server.runtime.quantization.calibration_data import CalibrationData
from topwork_server.runtime.quantization.calibration_ranges import calibrate
from topwork_server.runtime.session import Session
from topwork_server.types import Tap

#: Processors with one of these sum four byte products in 32 bits; others may overflow on the way.
EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
#: Operators that only move values. onnxruntime carries integers back across them, so a border behind one is a border before it,
#: and slow.
MOVES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity")
#: A prefix of more than this share of the convolutions leaves too little to gain.
LONGEST_PREFIX = 0.4
#: Number of calibration inputs on which the fp32 prefix is chosen.
CHOOSERS = 48

Say = Callable[[str], None]


@dataclass(frozen=True)
class QuantizationResult:
    """`parity` is measured on the held-out inputs; `median` is the median cosine of the default tap there. `fp32_convolutions`
    counts those that stay in fp32; `narrow` says that a bit of each weight is unused."""

    parity: ParityRecord
    median: float
    fp32_convolutions: int
    convolutions: int
    narrow: bool


def quantize(entry: CatalogEntry, data: CalibrationData, floor: float, out: Path, say: Say) -> QuantizationResult:
    """Write the int8 graph of a ready encoder to `out`. InvalidInput where no fp32 prefix keeps `floor`, the least cosine of the
    default tap on the calibration inputs."""
    assert entry.folder is not None, "it is ready"
    assert entry.manifest is not None, "it is ready"
    if onnx_files.data_of(entry.folder / MODEL).exists():
        raise InvalidInput(f"{entry.spec.name} is too large to be quantized here", remedy="serve it as it is")
    taps = [info.tap for info in entry.manifest.taps]
    (default,) = (tap for tap in taps if tap.name == entry.spec.default_tap)
    reference = Session(entry.folder / MODEL)
    quantizer = _Quantizer(entry.spec.name, default, data, reference, not EXACT & cpu_flags(), say)
    with tempfile.TemporaryDirectory() as scratch:
        fp32_count, convolutions = quantizer.write(entry.folder / MODEL, Path(scratch), floor, out)
    served = Session(out)
    record = parity.measure(taps, data.evaluation, reference.run, served.run)
    return QuantizationResult(
        record, _median(default, data.evaluation, reference, served), fp32_count, convolutions, quantizer.narrow
    )


@dataclass(frozen=True)
class _Quantizer:
    name: str
    tap: Tap
    data: CalibrationData
    reference: Session
    narrow: bool
    say: Say

    def write(self, model: Path, scratch: Path, floor: float, out: Path) -> tuple[int, int]:
        """Write the graph with the shortest fp32 prefix that keeps the floor; returns its number of convolutions, and that of
        all."""
        prepared = scratch / "prepared.onnx"
        qdq.prepare(model, prepared)
        convolutions = _convolutions(prepared, self.name)
        self.say(f"calibrating on {len(self.data.calibration)} inputs")
        ranges = calibrate(prepared, [batch.feeds for batch in self.data.calibration], scratch)
        best = 0.0
        for nodes in fp32_prefixes(prepared, self.tap.name):
            qdq.write(prepared, ranges, nodes, out, narrow=self.narrow)
            fp32_count, found = sum(name.endswith(".Conv") for name in nodes), self._least_cosine(out)
            self.say(f"{fp32_count} of {convolutions} convolutions in fp32: least cosine {found:.5f}")
            if found >= floor:
                return fp32_count, convolutions
            best = max(best, found)
        raise InvalidInput(
            f"in int8 {self.name} keeps a least cosine of {best:.5f} at best, and {floor} was asked for",
            remedy=f"ask for less, such as --parity {math.floor(best * 200) / 200}, or calibrate on more of what it will meet",
        )

    def _least_cosine(self, graph: Path) -> float:
        """Least cosine of the tap over some of the calibration inputs."""
        learned = self.data.calibration
        choosers = learned[:: max(1, len(learned) // CHOOSERS)]
        return parity.measure([self.tap], choosers, self.reference.run, Session(graph).run).numerics.parity


def _convolutions(model: Path, name: str) -> int:
    """Number of convolutions. InvalidInput where the network does not mainly consist of them."""
    import onnx

    kinds = [node.op_type for node in onnx.load(str(model)).graph.node]
    count, products = kinds.count("Conv"), kinds.count("MatMul") + kinds.count("Gemm")
    if count <= products:
        raise InvalidInput(
            f"{name} is no convolutional network: its graph has {count} convolutions and {products} matrix products",
            remedy="serve it as it is: static int8 costs networks with attention too much",
        )
    return count


def _median(tap: Tap, batches: Sequence[ParityBatch], reference: Session, candidate: Session) -> float:
    cosines = []
    for batch in batches:
        a, b = (session.run([tap.name], batch.feeds)[0][0] for session in (reference, candidate))
        cosines.append(parity.difference(rows_of(tap, a, batch.samples[0]), rows_of(tap, b, batch.samples[0]))[1])
    return float(np.median(cosines))


def fp32_prefixes(model: Path, tap: str) -> Iterator[list[str]]:
    """Prefixes of the graph that may stay fp32, as names of nodes, the shortest (none) first; after each, a single tensor leads
    on to the tap.

    Errors cost most in the first layers, since every later one carries them on, and the first convolutions, with few channels,
    gain least from integers.
    """
    import onnx

    graph = onnx.load(str(model)).graph
    kept = sorted(ancestors(graph, tap))
    convolutions = sum(graph.node[i].op_type == "Conv" for i in kept)
    last_use = {name: i for i in kept for name in graph.node[i].input}
    names: list[str] = []
    seen, live = 0, {value.name for value in graph.input}
    yield []
    for i in kept:
        node = graph.node[i]
        seen += node.op_type == "Conv"
        names += [node.name] if node.op_type in qdq.OPERATORS else []
        live = {name for name in (*live, *node.output) if last_use.get(name, -1) > i}
        if seen > LONGEST_PREFIX * convolutions:
            return
        follower = next((graph.node[j] for j in kept if node.output[0] in graph.node[j].input), None)
        activated = follower is not None and follower.op_type in ("Relu", "Clip")  # it belongs to what it follows
        if seen and len(live) == 1 and node.op_type not in MOVES and not activated:
            yield list(names)
