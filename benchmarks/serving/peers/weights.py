"""The weights of Topwork's encoder in the form that sentence-transformers and what builds on it read: a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.serving.peers import ENVIRONMENTS, Subject

#: The hidden states of the last layer: Topwork's name of them, and that of the graphs that optimum reads.
TOKENS, OUTPUT = "tokens", "last_hidden_state"


def sentence_transformer(subject: Subject) -> Path:
    """With the weights, tokenizer and pooling out of the weight package, and Topwork's own graph as onnx/model.onnx."""
    folder = ENVIRONMENTS / "weights" / subject.artifact.name
    if not folder.exists():
        made = folder.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(_package(subject), made)
        for module in json.loads((made / "modules.json").read_text()):
            (made / module["path"]).mkdir(exist_ok=True)  # a wheel holds no empty folders, and Normalize has no files
        (made / "onnx").mkdir()
        _write_graph(subject.artifact / "model.onnx", made / "onnx" / "model.onnx")
        made.rename(folder)
    return folder


def _package(subject: Subject) -> Path:
    """The folder of the only package whose name ends with the encoder's and which has modules."""
    found = [file.parent for file in (subject.home / "packages").glob(f"*{subject.encoder}-*/*/model/modules.json")]
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} packages of {subject.encoder} in {subject.home / 'packages'}; run `make weights`")
    return found[0]


def _write_graph(graph: Path, out: Path) -> None:
    """The part of Topwork's graph that leads to its tokens."""
    import onnx

    model = onnx.load(str(graph))
    inputs = [node.name for node in model.graph.input]
    extractor = onnx.utils.Extractor(model)
    taken = extractor.extract_model(inputs, [TOKENS])
    taken.graph.node.append(onnx.helper.make_node("Identity", [TOKENS], [OUTPUT]))
    taken.graph.output[0].name = OUTPUT
    onnx.save(taken, str(out))
