"""Static quantization of an fp32 graph to int8, with a floor for the parity of the default tap."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.features import rows_of
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import CatalogEntry
from topwork_server.runtime import parity
from topwork_server.runtime.parity import ParityBatch, ParityRecord
from topwork_server.runtime.providers import cpu_flags
from topwork_server.runtime.quantization import qdq
from topwork_server.runtime.quantization.calibration_data import CalibrationData
from topwork_server.runtime.quantization.calibration_ranges import calibrate
from topwork_server.runtime.quantization.fp32_fallback import fp32_prefixes
from topwork_server.runtime.session import Session
from topwork_server.types import Tap

#: Processors with one of these sum four byte products in 32 bits; others may overflow on the way.
EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
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
        learnt = self.data.calibration
        choosers = learnt[:: max(1, len(learnt) // CHOOSERS)]
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
