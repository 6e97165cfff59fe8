"""Makes a Trunk of an ONNX file and its description. Export process only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from topwork_server import (
    FP32_FLOOR,
    Array,
    Encoder,
    EncoderSpec,
    InvalidInput,
    Item,
    Sample,
    Session,
    Tap,
    Trunk,
    batch_key,
    check_weights,
    difference,
    rows_of,
    save_onnx,
)

from topwork_plugins.onnx_file import description as onnx_description
from topwork_plugins.onnx_file import graph as onnx_graph
from topwork_plugins.onnx_file import inputs as onnx_inputs
from topwork_plugins.onnx_file import taps as onnx_taps
from topwork_plugins.onnx_file.description import Description

MODEL = "model.onnx"
FIXED = "export the model again with a dynamic batch axis"


def export(spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
    """See `OnnxEncoder.export`."""
    record = spec.settings.get("description") or onnx_description.read(assets)
    description = Description.parse(record, assets.with_suffix(".toml").name)
    if description.modality != spec.modality:
        raise InvalidInput(
            f"{description.file}: modality is {description.modality}, and the encoder's is {spec.modality}",
            remedy="make them agree",
        )
    model = onnx_graph.load(assets)
    unused = onnx_graph.cut(model, [tap.output for tap in description.taps])
    onnx_graph.free_batch(model)
    wired = onnx_inputs.wire(model, description, assets, out)
    encoder = spec.encoder(spec, out)
    items, samples = _usable(encoder, wired.examples or spec.encoder.examples(spec), description.file)
    found = _raw_outputs(model, encoder.collate(samples[:1]), description)
    taps = onnx_taps.add_taps(model, description.taps, found, description.file)
    save_onnx(model, out / MODEL)
    check_weights(assets.name, graph=out / MODEL)
    _check_batches(Session(out / MODEL), encoder, samples, taps, assets.name)
    return Trunk(wired.axes, taps, {}, wired.preprocessing, graph=out / MODEL, examples=items, unused=unused)


def _usable(encoder: Encoder, items: Sequence[Item], file: str) -> tuple[list[Item], list[Sample]]:
    """The examples that the encoder takes (a text may be over its limit) and the first sample of each."""
    options, usable, samples, why = encoder.example_options, [], [], ""
    for item in items:
        try:
            samples.append(next(iter(encoder.preprocess(item, options))))
            usable.append(item)
        except InvalidInput as error:
            why = str(error)
    if not samples:
        raise InvalidInput(f"{file}: no example input can be prepared: {why}", remedy="correct what the description says is read")
    return usable, samples


def _raw_outputs(model: onnx.ModelProto, feeds: Mapping[str, Array], description: Description) -> dict[str, Array]:
    names = [value.name for value in model.graph.output]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        save_onnx(model, path)
        try:
            return dict(zip(names, Session(path).run(names, feeds), strict=True))
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base
            raise InvalidInput(
                f"{description.file}: the graph does not run on {_shapes(feeds)}: {_first_line(error)}",
                remedy="check what the description says is read; or, where the batch axis is fixed in the graph, " + FIXED,
            ) from error


def _check_batches(session: Session, encoder: Encoder, samples: Sequence[Sample], taps: Sequence[Tap], file: str) -> None:
    """A graph whose batch axis is a constant somewhere inside fails on two items, or mixes them up."""
    pair, names = _pair(encoder, samples), [tap.name for tap in taps]
    alone = [session.run(names, encoder.collate([sample])) for sample in pair]
    feeds = encoder.collate(pair)
    try:
        together = session.run(names, feeds)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        raise InvalidInput(
            f"{file}: the batch axis is fixed in the graph: it fails on {_shapes(feeds)}: {_first_line(error)}", remedy=FIXED
        ) from error
    for i, tap in enumerate(taps):
        if len(together[i]) != 2 or len(alone[0][i]) != 1:
            rows = f"{len(together[i])} for two items and {len(alone[0][i])} for one"
            raise InvalidInput(f"{file}: the batch axis of tap {tap.name} is fixed in the graph: it is {rows}", remedy=FIXED)
        for j, sample in enumerate(pair):
            _, cosine = difference(rows_of(tap, alone[j][i][0], sample), rows_of(tap, together[i][j], sample))
            if cosine < FP32_FLOOR:
                raise InvalidInput(
                    f"{file}: an item's {tap.name} depends on the items beside it (cosine {cosine:.4f})",
                    remedy="export the model in evaluation mode, and with a dynamic batch axis",
                )


def _pair(encoder: Encoder, samples: Sequence[Sample]) -> list[Sample]:
    """Two samples that may share a batch, different ones if there are any."""
    mates = [s for s in samples[1:] if batch_key(encoder, s) == batch_key(encoder, samples[0])]
    return [samples[0], mates[-1] if mates else samples[0]]


def _shapes(feeds: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
