"""Turns a SavedModel into ONNX, and then runs it in TensorFlow for as long as it is asked. Runs by itself in the environment
with TensorFlow, where nothing of Topwork is:

    python convert.py REQUEST.json

It answers with a line of JSON: facts, or an error and its remedy. From then on it reads a line from stdin, the path of an .npz
with the inputs of a batch, and answers where the outputs are. It ends with its stdin, which is open while its parent lives.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

OPSET = 18


class Refused(Exception):
    """A model cannot be converted; the remedy says what to do instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Network:
    """The signature of a SavedModel as a function of the inputs and outputs that a request names, in its order.

    Inputs are called input_0, input_1 .. and outputs output_0, output_1 .. in the ONNX file. Where texts have a fixed length
    (`tokens`), shorter ones are padded with zeros to it.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        import tensorflow as tf

        self._request = request
        try:
            self._loaded = tf.saved_model.load(request["folder"], tags=request["tags"])
            self._signature = self._loaded.signatures[request["signature"]]
        except Exception as error:  # TensorFlow raises errors of any kind
            raise _unreadable(error) from error
        given = self._signature.structured_input_signature[1]
        self._specs = [given[name] for name in request["inputs"]]
        length = request["tokens"]
        free = [
            tf.TensorSpec([None, None] if length else spec.shape, spec.dtype, f"input_{i}") for i, spec in enumerate(self._specs)
        ]

        @tf.function(input_signature=free)  # type: ignore[untyped-decorator]
        def called(*tensors: Any) -> dict[str, Any]:
            if length:
                tensors = tuple(tf.pad(each, [[0, 0], [0, length - tf.shape(each)[1]]]) for each in tensors)
                tensors = tuple(tf.ensure_shape(each, [None, length]) for each in tensors)
            found = self._signature(**dict(zip(request["inputs"], tensors, strict=True)))
            return {f"output_{i}": found[name] for i, name in enumerate(request["outputs"])}

        self._free, self._called = free, called

    def convert(self) -> dict[str, Any]:
        """Write the ONNX file, and give the facts of it."""
        import tf2onnx

        try:
            model, _ = tf2onnx.convert.from_function(self._called, self._free, opset=OPSET, output_path=self._request["onnx"])
        except Exception as error:  # tf2onnx raises errors of any kind
            raise Refused(
                f"tf2onnx cannot convert it: {_first_line(error)}", "ONNX does not have a part of it; take another model"
            ) from error
        if strange := sorted(_strange(model.graph)):
            raise Refused(
                f"it needs operators of TensorFlow that ONNX does not have: {', '.join(strange)}",
                "take a model, or save a signature, that does without them",
            )
        lower = getattr(self._loaded, "do_lower_case", None)
        return {
            "versions": {name: version(name) for name in ("tensorflow-cpu", "tf2onnx")},
            "lower_case": None if lower is None else bool(lower.numpy()),
        }

    def run(self, path: Path) -> Path:
        """Run a batch, and give the .npz of its outputs."""
        import numpy as np
        import tensorflow as tf

        with np.load(path, allow_pickle=False) as arrays:
            tensors = [tf.constant(arrays[spec.name], spec.dtype) for spec in self._free]
        found = self._called(*tensors)
        out = path.with_suffix(".out.npz")
        np.savez(out, **{name: tf.cast(tensor, tf.float32).numpy() for name, tensor in found.items()})
        return out


def _strange(graph: Any) -> set[str]:
    """Find the operators of a graph, and of those inside it, that no ONNX runtime has."""
    from onnx import defs

    found = {f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.node if node.domain or not defs.has(node.op_type)}
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return found.union(*map(_strange, inner))


def _unreadable(error: Exception) -> Refused:
    missing = re.search(r"Op type not registered '([^']+)'", str(error))
    if missing:
        return Refused(
            f"it needs the operator {missing[1]}, which TensorFlow itself does not have (TensorFlow Text may), nor ONNX",
            "take a model whose signature reads token ids",
        )
    return Refused(f"TensorFlow cannot load it: {_first_line(error)}", "copy the model again, with all of its files")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def main(network_of: Callable[[dict[str, Any]], Any] = Network) -> None:
    """Answer what a parent asks. `network_of` makes the network of a request."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")  # what the libraries print goes to stderr
    os.dup2(2, 1)

    def answer(**record: Any) -> None:
        print(json.dumps(record), file=answers, flush=True)

    try:
        network = network_of(json.loads(Path(sys.argv[1]).read_text("utf-8")))
        answer(facts=network.convert())
    except Refused as error:
        answer(error=str(error), remedy=error.remedy)
        return
    while True:
        try:
            answer(outputs=str(network.run(Path(lines.get()))))
        except Exception as error:  # TensorFlow raises errors of any kind
            answer(error=_first_line(error), remedy="save a signature that takes batches of any size")


def _read(lines: queue.Queue[str]) -> None:
    """Put each line of stdin into a queue. At its end, end this process, whatever TensorFlow is at."""
    for line in sys.stdin:
        lines.put(line.strip())
    os._exit(0)


if __name__ == "__main__":
    main()
