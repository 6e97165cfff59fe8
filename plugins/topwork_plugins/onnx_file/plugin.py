"""Encodes with any ONNX file with a description beside it: model.onnx and model.toml. docs/onnx.md teaches the description.

Pictures, texts and ready arrays are read; a tap is an output of the graph or any tensor inside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from topwork_server import Encoder, EncoderSpec, InvalidInput, Item, Modality, Refusal, Sample, SourceUri, Trunk, hookimpl

from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.onnx_file import description as onnx_description
from topwork_plugins.onnx_file.description import Description


class OnnxEncoder(Encoder):
    """An encoder of an ONNX file. `settings["description"]`, where it is set, stands for the file beside the graph."""

    settings: ClassVar[Sequence[str]] = ("description",)

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        """Export the file. InvalidInput where it, its description and what onnxruntime makes of them do not agree."""
        from topwork_plugins.onnx_file.export import export

        return export(spec, assets, out)


class OnnxImage(OnnxEncoder):
    """Pictures through an ONNX file."""

    budget = 8

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        from topwork_plugins.onnx_file.reads import PictureReader

        super().__init__(spec, folder)
        self._reader = PictureReader.read(folder)

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        return [self._reader.sample(item)]


class OnnxTensor(OnnxEncoder):
    """Arrays through an ONNX file, as its input is, without the batch axis; floats may be of another width."""

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        from topwork_plugins.onnx_file.reads import TensorReader

        super().__init__(spec, folder)
        self._reader = TensorReader.read(folder)

    @property
    def array(self) -> tuple[str, Sequence[int]]:
        return self._reader.dtype, [axis if isinstance(axis, int) else -1 for axis in self._reader.axes]

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        return [self._reader.sample(item)]


class OnnxText(OnnxEncoder, BertEncoder):
    """Texts and pairs through an ONNX file that reads input_ids and attention_mask, with a tokenizer.json beside it."""


ENCODERS: dict[Modality, type[Encoder]] = {
    Modality.IMAGE: OnnxImage,
    Modality.TEXT: OnnxText,
    Modality.TENSOR: OnnxTensor,
}


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """onnx:/PATH/model.onnx, with model.toml beside it. The description becomes part of the artifact's key."""
    if source.family not in ("", "onnx") or source.scheme not in (("onnx", "file") if source.family else ("onnx",)):
        return None
    path = Path(source.location)
    if not path.is_file():
        raise InvalidInput(f"{path} is not there", remedy="check the path: onnx:/PATH/model.onnx")
    record = onnx_description.read(path)
    described = Description.parse(record, path.with_suffix(".toml").name)
    return EncoderSpec(
        name,
        ENCODERS[described.modality],
        str(source),
        described.modality,
        default_tap=described.default_tap,
        trained_on=described.trained_on,
        license=described.license,
        description=described.about,
        settings={"description": record},
    )


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme == "file" and path.suffix == ".onnx":
        return Refusal("an ONNX file is named by its own scheme", f"write onnx:{path}", nearness=2)
    if source.scheme == "file" and path.is_dir() and (graph := next(path.glob("*.onnx"), None)):
        return Refusal(f"the folder holds {graph.name}, which is named by its own scheme", f"write onnx:{graph}", nearness=1)
    return Refusal("it is no .onnx file") if source.scheme == "file" else None
