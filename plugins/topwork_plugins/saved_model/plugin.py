"""TensorFlow's SavedModels, out of folders, archives and TensorFlow Hub. They become ONNX graphs at their export, in an
environment with TensorFlow that is made for that; from then on they are what the ONNX family serves."""

from __future__ import annotations

from pathlib import Path

from topwork_server import Encoder, EncoderSpec, InvalidInput, Modality, Refusal, SourceUri, Trunk, hookimpl

from topwork_plugins.onnx_file.plugin import OnnxEncoder, OnnxImage, OnnxTensor, OnnxText
from topwork_plugins.saved_model import description, reading, signatures
from topwork_plugins.saved_model.converter import TENSORFLOW

FAMILY = "saved_model"


class SavedModelEncoder(OnnxEncoder):
    """An encoder whose trunk TensorFlow converts, in an environment of its own."""

    environment = TENSORFLOW

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_plugins.saved_model.export import export

        return export(spec, assets, out)


class SavedModelImage(SavedModelEncoder, OnnxImage):
    """Pictures through a SavedModel: RGB from 0 to 1, of the size that the signature names."""

    settings = ("signature", "size", "resize", "fit", "interpolation", "white", "mean", "std", "channels")


class SavedModelText(SavedModelEncoder, OnnxText):
    """Texts and pairs through a SavedModel that reads token ids and a mask, by the tokenizer of its assets."""

    settings = ("signature", "lowercase", "max_tokens")


class SavedModelTensor(SavedModelEncoder, OnnxTensor):
    """Arrays through a SavedModel, as its only input is, without the batch axis."""

    settings = ("signature", "shape")


ENCODERS: dict[Modality, type[Encoder]] = {
    Modality.IMAGE: SavedModelImage,
    Modality.TEXT: SavedModelText,
    Modality.TENSOR: SavedModelTensor,
}


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Resolve folders with a saved_model.pb, and names of TensorFlow Hub."""
    folder = source.files or Path(source.location)
    ours = source.scheme == "tfhub" or (source.scheme == "file" and (folder / signatures.FILE).is_file())
    if source.family not in ("", FAMILY) or source.scheme not in ("file", "tfhub") or not (ours or source.family):
        return None
    if source.scheme == "tfhub" and source.files is None:
        raise InvalidInput(f"the files of {source} are not here", remedy=f"run `topwork pull {source}` where the server runs")
    chosen = reading.choose(signatures.read(folder), source.settings)
    encoder = ENCODERS[chosen.modality]
    if source.settings.keys() <= set(encoder.settings or ()):  # one that is none is refused first: it may be a misspelling
        description.reads(chosen, source.settings)
    what = f"the signature {chosen.signature.name} of a SavedModel"
    return EncoderSpec(name, encoder, str(source), chosen.modality, description=what)


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    return Refusal("it has no saved_model.pb") if source.scheme == "file" and Path(source.location).is_dir() else None
