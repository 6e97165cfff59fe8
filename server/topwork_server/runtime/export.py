"""A torch module becomes the one kind of ONNX graph that we run, with its parity record. Runs in a process of its own:

    python -m topwork_server.runtime.export --home HOME NAME

so that the server never has torch in memory. Prints one JSON line, {"folder": ...} or {"error": ..., "remedy": ...}. With
--fingerprints nothing is kept, and it prints {"fingerprints": {tap: ...}}.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from topwork_server import atomic_store
from topwork_server.errors import ExportFailed, TopworkError
from topwork_server.models import artifacts, fingerprint, onnx_files, onnx_graph, pretrained_heads
from topwork_server.models.artifacts import Manifest
from topwork_server.models.head_graph import ROWS, SCORES
from topwork_server.models.towers import join_fingerprints, join_manifests
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.encoder import Encoder, Reference, Run, Trunk
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.plugin_api.trainer import PretrainedHead
from topwork_server.plugin_api.weight_checks import check_weights
from topwork_server.runtime import aligned_tower, parity, sample_inputs, tuned_weights
from topwork_server.runtime.onnx_writer import first_line, named, write_graph
from topwork_server.runtime.parity import ParityBatch, ParityRecord
from topwork_server.runtime.session import Session, is_out_of_memory
from topwork_server.types import INT8, Array, EncoderSpec, FingerprintedTap, Int8Graph, Item, Numerics


def export_encoder(spec: EncoderSpec, assets: Path, folder: Path) -> Manifest:
    """Write the whole artifact of `spec` into the empty `folder`. ExportFailed where fp32 parity is below 0.9999."""
    stamp = sources.stamp(SourceUri.parse(spec.source))  # before it is read: a change meanwhile is seen later
    trunk = open_trunk(spec, assets, folder)
    default_tap = "" if spec.tuned or spec.aligned else trunk.default_tap
    spec = replace(spec, default_tap=default_tap or spec.default_tap)
    if clash := set(trunk.inputs) & {tap.name for tap in trunk.taps}:
        raise ExportFailed(f"{sorted(clash)} of {spec.name} are inputs and taps", remedy="give the graph's inputs other names")
    encoder = spec.encoder(spec, folder)
    examples = trunk.examples or spec.encoder.examples(spec)
    batches = parity.example_batches(encoder, examples)
    parameters = _parameters(trunk)
    _place_graph(encoder, trunk, batches, folder)
    reference = parity.recorded(_reference(spec, trunk), trunk.taps, batches)
    described = aligned_tower.describe(spec, trunk)
    taps = _fingerprints(spec, described, folder)
    if spec.aligned:
        reference = aligned_tower.append(spec.aligned, spec.default_tap, reference, folder)
        trunk = described
    trunk = replace(trunk, module=None, reference=None)  # a large network is not in memory beside the session of its graph
    onnx_graph.extract_subgraph(folder / artifacts.MODEL, spec.default_tap, folder / artifacts.DEFAULT)
    record = _measured(spec, trunk, batches, reference.run, folder)
    record = _check_fp32(spec, record, reference.name) if spec.int8 is None else _as_int8(record, spec.int8)
    if encoder.pads and spec.int8 is None:
        _check_invariance(encoder, trunk, examples, folder)
    parity.save_inputs(batches, folder / artifacts.PARITY_INPUTS)
    sample_inputs.save(examples, batches, folder)
    for head in trunk.heads if spec.tuned is None else ():  # a tuned trunk's features are not what they were trained on
        _check_head(spec, trunk, head, pretrained_heads.write(folder, spec, head, taps))
    manifest = Manifest(
        encoder=spec.name,
        taps=taps,
        parameters=parameters,
        numerics=record.numerics,
        reference=reference.name,
        parity=record.by_tap,
        batches=tuple(batch.shapes for batch in batches),
        files=atomic_store.checksums(folder),
        made_with={
            name: version(name) for name in ("topwork-server", "torch", "onnx", "onnxruntime-gpu", "transformers", "timm")
        },
        stamp=stamp,
        unused=tuple(sorted(trunk.unused)),
        remarks=tuple(trunk.remarks),
        default_tap=default_tap,
        blocks=max(len(trunk.blocks), 1),
        bytes=sum(path.stat().st_size for path in folder.iterdir() if path.name != artifacts.DEFAULT),
    )
    manifest.write(folder)
    return manifest


def publish_towers(home: Path, spec: EncoderSpec, assets: Callable[[EncoderSpec], Path], *, force: bool = False) -> Path:
    """Make the artifact of each tower that has none, of its files, which `assets` finds, and give the first's folder. Where one
    fails, or they do not fit together, those that were made now are deleted."""
    made = []
    try:
        for tower in spec.towers:
            fresh = artifacts.find(home, tower) is None
            artifacts.publish(home, tower, partial(_export_from, assets, tower), force=force)
            made += [tower] * fresh
        folders = [artifacts.folder_of(home, tower) for tower in spec.towers]
        if spec.other_towers:
            join_manifests(spec, [Manifest.read(folder) for folder in folders])
    except BaseException:
        for tower in made:
            artifacts.remove(home, tower)
        raise
    return folders[0]


def _export_from(assets: Callable[[EncoderSpec], Path], spec: EncoderSpec, folder: Path) -> Manifest:
    return export_encoder(spec, assets(spec), folder)


def fingerprints(spec: EncoderSpec, assets: Path) -> dict[str, str]:
    """Return the fingerprints by tap, of the trunk as `export` makes it; no graph is written."""
    with tempfile.TemporaryDirectory() as folder:
        trunk = aligned_tower.describe(spec, open_trunk(spec, assets, Path(folder)))
        taps = _fingerprints(spec, trunk, Path(folder))
    return {info.tap.name: info.fingerprint for info in taps}


def _check_head(spec: EncoderSpec, trunk: Trunk, head: PretrainedHead, graph: Path) -> None:
    """Compare the graph of a head that is a module with the module. ExportFailed where they differ."""
    if head.module is None:
        return
    import torch

    dim = next(tap.dim for tap in trunk.taps if tap.name == head.tap)
    rows = np.random.default_rng(0).normal(size=(16, dim)).astype(np.float32)
    with torch.no_grad():
        expected = head.module(torch.from_numpy(rows)).numpy()
    error, cosine = parity.difference(Session(graph).run([SCORES], {ROWS: rows})[0], expected)
    if cosine < parity.FP32_FLOOR:
        raise ExportFailed(
            f"the graph of the head {head.name} of {spec.name} is not its module: minimum cosine {cosine:.6f}, largest error"
            f" {error:.2g}",
            remedy="this encoder's export is at fault; report it to its author",
        )


def _place_graph(encoder: Encoder, trunk: Trunk, batches: Sequence[ParityBatch], folder: Path) -> None:
    spec = encoder.spec
    if spec.int8 is not None:
        path = Path(spec.int8.path)
        if not atomic_store.is_unchanged(path, spec.int8.sha256):
            raise ExportFailed(
                f"{path} is not what {spec.name} was quantized to", remedy=f"run `topwork forget {spec.name}`, and quantize again"
            )
        shutil.copyfile(path, folder / artifacts.MODEL)
        if trunk.module is not None:
            trunk.module.eval()  # it is still what the graph is compared with
    elif trunk.module is not None:
        write_graph(spec, trunk, trunk.module, parity.export_arguments(encoder, batches), folder / artifacts.MODEL)


def _check_fp32(spec: EncoderSpec, record: ParityRecord, reference: str) -> ParityRecord:
    if record.numerics.parity < parity.FP32_FLOOR:
        raise ExportFailed(
            f"the graph of {spec.name} is not the network: minimum cosine {record.numerics.parity:.6f} against"
            f" {reference} (at least {parity.FP32_FLOOR} is asked for), worst tap {record.worst}",
            remedy="this encoder's export is at fault; report it to its author",
        )
    return record


def _check_invariance(encoder: Encoder, trunk: Trunk, examples: Sequence[Item], folder: Path) -> None:
    run = _run_of(encoder.spec, trunk, folder / artifacts.MODEL)
    error, cosine = parity.invariance(encoder, trunk.taps, examples, run)
    if cosine < parity.FP32_FLOOR:
        raise ExportFailed(
            f"rows of {encoder.spec.name} change with what they share a batch with: minimum cosine {cosine:.6f} between samples"
            f" alone and padded (at least {parity.FP32_FLOOR} is asked for), largest difference {error:.3g}",
            remedy="it cannot be served: its network lets padding take part",
        )


def _as_int8(record: ParityRecord, graph: Int8Graph) -> ParityRecord:
    """Add what was measured on the inputs that were held out when the graph was made."""
    parity = min(worst["min_cosine"] for worst in graph.parity.values())
    error = max(worst["max_abs_error"] for worst in graph.parity.values())
    return _worse(record, ParityRecord(Numerics("cpu", INT8, parity, error), graph.parity))


def _measured(spec: EncoderSpec, trunk: Trunk, batches: Sequence[ParityBatch], reference: Run, folder: Path) -> ParityRecord:
    """Measure the whole graph, and the one that gives the default tap alone."""
    record = parity.measure(trunk.taps, batches, reference, _run_of(spec, trunk, folder / artifacts.MODEL))
    alone = artifacts.graph_for(folder, [spec.default_tap], spec.default_tap)
    if alone.name == artifacts.MODEL:
        return record
    taps = [tap for tap in trunk.taps if tap.name == spec.default_tap]
    return _worse(record, parity.measure(taps, batches, reference, _run_of(spec, trunk, alone)))


def _worse(one: ParityRecord, other: ParityRecord) -> ParityRecord:
    """Return by tap, and in all, what is further from the reference; `other` has some of the taps of `one`."""
    by_tap = {tap: dict(found) for tap, found in one.by_tap.items()}
    for tap, found in other.by_tap.items():
        by_tap[tap]["max_abs_error"] = max(by_tap[tap]["max_abs_error"], found["max_abs_error"])
        by_tap[tap]["min_cosine"] = min(by_tap[tap]["min_cosine"], found["min_cosine"])
    numerics = (one.numerics, other.numerics)
    parity, error = min(n.parity for n in numerics), max(n.max_abs_error for n in numerics)
    return ParityRecord(replace(other.numerics, parity=parity, max_abs_error=error), by_tap)


def open_trunk(spec: EncoderSpec, assets: Path, folder: Path) -> Trunk:
    """The trunk with its weights: those of `assets`, or what became of them in fine-tuning. InvalidInput where they are not
    finite."""
    trunk = spec.encoder.export(spec, assets, folder)
    if spec.tuned is not None:
        tuned_weights.load(spec.name, trunk, spec.tuned)
    check_weights(f"{spec.name} ({spec.source})", trunk.module, trunk.graph)
    for head in trunk.heads if spec.tuned is None else ():
        check_weights(f"the head {head.name} of {spec.name}", head.module, None, {"weight": head.weight, "bias": head.bias})
    return trunk


def _fingerprints(spec: EncoderSpec, trunk: Trunk, folder: Path) -> tuple[FingerprintedTap, ...]:
    maker = spec.encoder
    if spec.int8 is not None:
        weights = fingerprint.graph_digest(folder / artifacts.MODEL)
    elif trunk.module is not None:
        weights = fingerprint.module_digest(trunk.module)
    else:
        assert trunk.graph is not None, "a Trunk has a module or a graph"
        weights = fingerprint.graph_digest(trunk.graph)
    # The class by its own name: moving it to another module changes nothing of what its features mean.
    definition = {"encoder": maker.__qualname__, "revision": maker.revision, **trunk.definition}
    return tuple(
        FingerprintedTap(tap, fingerprint.fingerprint(weights, definition, trunk.preprocessing, tap.name)) for tap in trunk.taps
    )


def _parameters(trunk: Trunk) -> int:
    if trunk.module is not None:
        return sum(p.numel() for p in trunk.module.parameters())
    assert trunk.graph is not None
    return sum(math.prod(tensor.dims) for tensor in onnx_files.load_structure(trunk.graph).graph.initializer)


def _reference(spec: EncoderSpec, trunk: Trunk) -> Reference:
    """Return what the graph is compared with. Its `run` raises ExportFailed where a module fails on an example."""
    reference = parity.reference_of(trunk)
    if trunk.module is None:
        return reference

    def run(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return list(reference.run(outputs, feeds))
        except (OSError, MemoryError, TopworkError):
            raise
        except Exception as error:  # a network fails with errors of any kind
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise ExportFailed(
                f"the network of {named(spec, trunk)} fails on an example ({shapes}): {first_line(error)}",
                remedy="it cannot be served; take a model of another architecture",
            ) from error

    return Reference(reference.name, run)


def _run_of(spec: EncoderSpec, trunk: Trunk, graph: Path) -> Run:
    """The `run` of a graph that was just written. ExportFailed where a node of one that torch exported fails on what the network
    itself has computed: such a graph holds for the shapes alone that it was traced with."""
    session = _opened(spec, trunk, graph)
    if trunk.graph is not None:
        return session.run

    def run(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return session.run(outputs, feeds)
        except MemoryError:
            raise
        except Exception as error:  # of ONNX Runtime, which has a class for each of its codes
            if "while running" not in str(error):
                raise
            node = str(error).partition("while running ")[2].partition(" Status Message")[0]
            raise ExportFailed(
                f"torch does not export {named(spec, trunk)} rightly: its graph fails on inputs of other shapes than those"
                f" it was traced with ({node})",
                remedy="it cannot be served; take a model of another architecture",
            ) from error

    return run


def _opened(spec: EncoderSpec, trunk: Trunk, graph: Path) -> Session:
    """A session of a graph that was just written. ExportFailed where ONNX Runtime does not take it."""
    try:
        return Session(graph)
    except (OSError, MemoryError, TopworkError):
        raise
    except Exception as error:  # of ONNX Runtime, which has a class for each of its codes
        reason = first_line(error).replace(str(graph), graph.name)  # the folder is deleted now
        raise ExportFailed(
            f"ONNX Runtime does not take the graph of {named(spec, trunk)}: {reason}",
            remedy="a part of its architecture was not written as valid ONNX; take a model of another architecture",
        ) from error


def main(argv: list[str] | None = None) -> int:
    from topwork_server.models.catalog import Catalog
    from topwork_server.plugin_api.plugin_registry import PluginRegistry

    parser = argparse.ArgumentParser(prog="python -m topwork_server.runtime.export")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--fingerprints", action="store_true")
    parser.add_argument("--proposed", type=json.loads, help="the record of NAME, where the catalog has it not yet")
    parser.add_argument("name")
    asked = parser.parse_args(argv)
    answer = os.fdopen(os.dup(1), "w")  # the libraries' own prints go to stderr, the answer alone to stdout
    os.dup2(2, 1)
    os.environ["TOPWORK_HOME"] = str(asked.home)  # where an encoder finds its environment
    room = atomic_store.room_for(f"the artifact of {asked.name} in {asked.home / 'artifacts'}", "try again")
    try:
        catalog = Catalog(PluginRegistry.load(), asked.home, {asked.name: asked.proposed} if asked.proposed else None)
        spec = catalog.spec(asked.name)
        assets = partial(catalog.weights, asked.name)
        if asked.fingerprints:
            of_towers = [fingerprints(tower, assets(tower)) for tower in spec.towers]
            made: dict[str, Any] = {"fingerprints": join_fingerprints(spec, of_towers)}
        else:
            with room:
                made = {"folder": str(publish_towers(asked.home, spec, assets, force=asked.force))}
    except TopworkError as error:
        return _answer_error(error, answer)
    except Exception as error:
        if not isinstance(error, MemoryError) and not is_out_of_memory(error):
            raise
        traceback.print_exc()
        return _answer_error(_too_large(asked.name), answer)
    print(json.dumps(made), file=answer, flush=True)
    return 0


def _answer_error(error: TopworkError, answer: IO[str]) -> int:
    record = {"error": error.message, "remedy": error.remedy, "kind": type(error).__name__}
    print(json.dumps(record), file=answer, flush=True)
    return 1


def _too_large(name: str) -> ExportFailed:
    """The error of an export that ran out of memory."""
    most = resource.getrlimit(resource.RLIMIT_DATA)[0]
    bound = "this machine has" if most == resource.RLIM_INFINITY else f"{most / (1 << 30):.1f} GiB, which is all that it may have"
    return ExportFailed(
        f"the export of {name} needs more memory than {bound}",
        remedy="see that its files are what their publisher made; where they are, set $TOPWORK_EXPORT_MEMORY higher",
    )


if __name__ == "__main__":
    sys.exit(main())
