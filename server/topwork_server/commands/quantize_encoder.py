"""`topwork quantize`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from topwork_server.commands import pull
from topwork_server.errors import AlreadyExists, InvalidInput
from topwork_server.models import unfinished
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.names import check_name
from topwork_server.runtime.quantization import calibration_data
from topwork_server.runtime.quantization.calibration_data import CalibrationData
from topwork_server.runtime.quantization.quantize import QuantizationResult, quantize
from topwork_server.types import EncoderSpec, Modality

REFUSED = {
    Modality.TEXT: "static int8 costs networks with attention, and tables of words, more than it brings",
    Modality.AUDIO: "there is nothing to calibrate networks of recordings with",
    Modality.TENSOR: "there are no files to calibrate it on",
}


def run(arguments: SimpleNamespace) -> int:
    catalog = pull.opened(arguments)
    base = catalog.spec(arguments.encoder)
    name = arguments.name or f"{base.name}-int8"
    folder = catalog.home / "encoders"
    with pull.ended_by_signals(), _saying(arguments.json) as say, unfinished.quantization_lock(folder, say):
        unfinished.sweep(folder, catalog)
        _check(catalog, base, name)
        entry = _ready(catalog, base.name, say)
        material = _material(entry, arguments, say)
        with unfinished.scratch_folder(folder, name) as scratch:
            made = _made(catalog, entry, name, material, arguments.parity, scratch, say)
            say(f"exporting {name}")
            _export(catalog, name)
    return _show(catalog.entry(name), made, material, arguments)


def _check(catalog: Catalog, base: EncoderSpec, name: str) -> None:
    check_name(name, "an encoder")
    if base.modality in REFUSED:
        raise InvalidInput(
            f"{base.name} reads {base.modality.value}, and int8 is for convolutional networks: {REFUSED[base.modality]}",
            remedy="serve it as it is; --provider auto takes bf16 or fp16 where that is faster",
        )
    if base.other_towers:
        raise InvalidInput(
            f"{base.name} has a tower for each of {' and '.join(base.modalities)}, and int8 is for convolutional networks of one",
            remedy="serve it as it is; --provider auto takes bf16 or fp16 where that is faster",
        )
    if base.int8 is not None:
        raise InvalidInput(f"{base.name} is int8 already", remedy=f"quantize {base.int8.base} with another --name")
    if name in catalog.names():
        added = name in catalog.added()
        forget = f"run `topwork forget {name}` first, or " if added else ""
        raise AlreadyExists(f"there is an encoder {name!r}", remedy=f"{forget}choose another name with --name")


def _ready(catalog: Catalog, name: str, say: Callable[[str], None]) -> CatalogEntry:
    if catalog.entry(name).state is not EncoderState.READY:
        say(f"exporting {name}")
        catalog.export(name)
    return catalog.entry(name)


def _material(entry: CatalogEntry, arguments: SimpleNamespace, say: Callable[[str], None]) -> CalibrationData:
    assert entry.folder is not None, "it is ready"
    say(f"reading {arguments.calibrate}")
    material = calibration_data.read_calibration_data(
        arguments.calibrate, entry.spec.encoder(entry.spec, entry.folder), arguments.most
    )
    for path, why in material.refused.items():
        say(f"left out {path}: {why}")
    return material


def _made(
    catalog: Catalog,
    entry: CatalogEntry,
    name: str,
    material: CalibrationData,
    floor: float,
    scratch: Path,
    say: Callable[[str], None],
) -> QuantizationResult:
    graph = scratch / "int8.onnx"
    made = quantize(entry, material, floor, graph, say)
    catalog.add_quantized(name, entry.spec.name, graph, made.parity.by_tap, _said(made, material))
    return made


def _said(made: QuantizationResult, material: CalibrationData) -> str:
    fp32 = f", the first {made.fp32_convolutions} of {made.convolutions} convolutions in fp32" if made.fp32_convolutions else ""
    narrow = ", weights of 7 bits" if made.narrow else ""
    return f"calibrated on {len(material.calibration)} inputs and judged on {len(material.evaluation)} others{fp32}{narrow}"


def _export(catalog: Catalog, name: str) -> None:
    try:
        catalog.export(name)
    except BaseException:
        catalog.delete(name)
        raise


def _show(entry: CatalogEntry, made: QuantizationResult, material: CalibrationData, arguments: SimpleNamespace) -> int:
    facts = {
        "median_cosine": made.median,
        "learned_from": len(material.calibration),
        "evaluated_on": len(material.evaluation),
        "fp32_convolutions": made.fp32_convolutions,
        "convolutions": made.convolutions,
        "refused": {str(path): why for path, why in material.refused.items()},
    }
    if arguments.json:
        print(json.dumps(pull.record(entry) | facts))
        return 0
    pull.show(entry, arguments)
    tap = entry.spec.default_tap
    print(f"{_said(made, material)}; median cosine of {tap} there {made.median:.5f}")
    assert entry.manifest is not None, "it is ready"
    if (least := entry.manifest.parity[tap]["min_cosine"]) < arguments.parity:
        print(
            f"{tap} keeps {arguments.parity} on inputs that were learned from, but only {least:.4f} on others"
            " (calibrate on more files, or ask for more with --parity)"
        )
    return 0


@contextmanager
def _saying(quiet: bool) -> Iterator[Callable[[str], None]]:
    yield (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
