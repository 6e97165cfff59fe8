"""The model card of an exported file: how to run it without a server, as JSON in its metadata and beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server.heads.export.pooling_graph import PAIR_MASK, ROW_MASK, SECOND_INPUT, TEXT_MASK
from topwork_server.heads.head_types import Head, Pooling, Task
from topwork_server.heads.pooling import TOWERS
from topwork_server.heads.span_decoding import LONGEST_ANSWER
from topwork_server.models.artifacts import MANIFEST, Manifest
from topwork_server.models.head_graph import PROBABILITIES, SCORES, TYPICALITY
from topwork_server.models.pretrained_heads import PREFIX
from topwork_server.plugin_api.boxes import MAX_OVERLAP
from topwork_server.runtime import sample_inputs
from topwork_server.types import Granularity

if TYPE_CHECKING:
    import onnx

#: Coverages whose thresholds are told.
PROMISES = (0.5, 0.8, 0.9, 0.95, 0.99)
#: Larger files of an artifact are listed by their checksums only.
SHOWN = 64 << 10
MASKS = {
    ROW_MASK: "1 for tokens of the text (and of its pair); 0 for padding, for special tokens, and for those of a prompt",
    TEXT_MASK: "1 for tokens of the first text; 0 for all others, special ones too",
    PAIR_MASK: "1 for tokens of the second text; 0 for all others, special ones too",
}
READ = {
    Task.CLASSIFICATION: "probabilities[i, j]: that item i is names[j]; each row sums to 1",
    Task.MULTI_LABEL: "probabilities[i, j]: that names[j] holds for item i, each on its own; above 0.5 it is likelier than not",
    Task.REGRESSION: "probabilities[i, 0], which is scores[i, 0], is the value of item i; 90% of held-out items were within"
    " `interval` of theirs",
    Task.TAGGING: "probabilities[i, t, j]: that token t of text i has the tag names[j]; the likeliest is its tag: B- begins a"
    " span and I- goes on; skip special tokens and padding",
    Task.QUESTION_ANSWERING: "probabilities[i, t, 0] and [i, t, 1] are logits that the answer starts and ends with token t; take"
    " the softmax over the tokens of the context, and the start and end of the greatest product, with at most"
    f" {LONGEST_ANSWER} tokens from one to the other",
    Task.SEGMENTATION: "probabilities[i, c, j]: that cell c of picture i is names[j]; cells are in row-major order of `grid`,"
    " which divides the part of the picture that the preprocessing keeps",
    Task.DETECTION: "probabilities[i, c, j]: that an object of names[j] is at cell c of picture i; the last four are the"
    " distances from the cell's center to the left, upper, right and lower edge of its box, in cells; cells are in row-major"
    " order of `grid`, which divides the part of the picture that the preprocessing keeps. Of boxes of one class that overlap by"
    f" more than {MAX_OVERLAP} (intersection over union) keep the likeliest; from `min_score` on F1 was best on held-out"
    " pictures",
    Task.ALIGNMENT: "scores[i], which is probabilities[i], is where item i lies in the space of the text encoder, a vector of"
    " length 1: compare it by cosine with texts",
}


def model_card(head: Head, model: onnx.ModelProto, artifact: Path) -> dict[str, Any]:
    """Describe inputs, outputs, preprocessing and meaning of the scores; `artifact` is the encoder's folder."""
    tap = head.tap.tap
    return {
        "head": head.name,
        "task": head.task.value,
        "names": list(head.names),
        "encoder": head.encoder,
        "encoder_options": dict(head.encoder_options),
        "tap": tap.name,
        "granularity": tap.granularity.value,
        "grid": list(tap.grid) if tap.grid else None,
        "pooling": head.pooling.value,
        "parts": [{"tap": info.tap.name, "pooling": how.value} for info, how in head.parts],
        "fingerprint": head.tap.fingerprint,
        "temperature": head.temperature,
        "interval": head.interval,
        "promises": _promises(head),
        "min_score": head.chosen.get("min_score"),
        "created": head.created,
        "server_version": head.server_version,
        "inputs": [_value(value, _input(value.name, head)) for value in model.graph.input],
        "outputs": [_value(value, _output(value.name, head)) for value in model.graph.output],
        "how_to_read": READ[head.task],
        "one_clip_at_a_time": one_clip(head),
        "preprocessing": _preprocessing(head, artifact),
    }


def _promises(head: Head) -> dict[str, float]:
    """Give for some coverages the least probability of a class or label in the set, or half the width of the band; the likeliest
    class is always in the set of a classification."""
    found = {coverage: head.held_out.quantile(coverage) for coverage in PROMISES} if head.held_out else {}
    numbers = head.task is Task.REGRESSION
    return {f"{coverage:g}": at if numbers else 1 - at for coverage, at in found.items() if math.isfinite(at)}


def one_clip(head: Head) -> bool:
    """Tell whether a batch is the windows of one clip, which are pooled to one row."""
    return any(info.tap.granularity is Granularity.WINDOW and how is not Pooling.ROW for info, how in head.views)


def _value(value: onnx.ValueInfoProto, text: str) -> dict[str, Any]:
    from onnx import helper

    tensor = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return {"name": value.name, "dtype": dtype, "shape": shape, "description": text}


def _input(name: str, head: Head) -> str:
    if name in MASKS:
        return MASKS[name]
    if head.pooling in TOWERS:
        which = "second" if name.startswith(SECOND_INPUT) else "first"
        return f"the {which} text of each pair, by itself, as the encoder {head.encoder} prepares it: see preprocessing"
    clip = "; its batch is the windows of one clip, which are pooled to one row" if one_clip(head) else ""
    return f"as the encoder {head.encoder} prepares it: see preprocessing{clip}"


def _output(name: str, head: Head) -> str:
    if name == TYPICALITY:
        return (
            "the share of training items that lie at least as far from the others as the item does, by the cosine of pooled rows:"
            " of new items like them one in a hundred has 0.01 or less"
        )
    if name == SCORES:
        return "as the head computes them, before the temperature"
    assert name == PROBABILITIES
    return "of the scores over the temperature: see how_to_read" if head.task is not Task.REGRESSION else "the scores again"


def _preprocessing(head: Head, artifact: Path) -> dict[str, Any]:
    """Collect what the encoder's export wrote, of any family: small JSON files are copied."""
    manifest = Manifest.read(artifact)
    ours = {MANIFEST, "model.onnx", "parity.npz", sample_inputs.FILE}
    files = {name: digest for name, digest in manifest.files.items() if name not in ours and not name.startswith(PREFIX)}
    return {
        "text": f"An item must become these inputs as the encoder {head.encoder} prepares it: the fingerprint stands on its"
        " weights, this preprocessing and the tap. `settings` are what it reads; `files` are its other files, by SHA-256, in the"
        " encoder's artifact folder.",
        "encoder": manifest.encoder,
        "made_with": dict(manifest.made_with),
        "settings": {name: found for name in files if (found := _settings(artifact / name)) is not None},
        "files": files,
    }


def _settings(path: Path) -> Any:
    if path.suffix != ".json" or path.stat().st_size > SHOWN:
        return None
    return json.loads(path.read_text("utf-8"))
