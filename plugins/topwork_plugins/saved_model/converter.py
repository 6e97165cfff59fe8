"""TensorFlow in a process of its own: converts a SavedModel, then runs batches of inputs for comparison. Export process only."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from topwork_server import Array, Environment, InvalidInput, TopworkError

from topwork_plugins.saved_model.reading import Reading
from topwork_plugins.saved_model.signatures import SavedModel

#: All that TensorFlow and tf2onnx need, as pip chose them together for Python 3.11.
TENSORFLOW = Environment(
    "tensorflow",
    tuple(
        """
        tensorflow-cpu==2.21.0 tf2onnx==1.17.0 numpy==2.4.6 onnx==1.23.2 protobuf==7.36.2 ml_dtypes==0.7.0 keras==3.15.1
        h5py==3.14.0 absl-py==2.5.1 astunparse==1.6.3 certifi==2026.10.19.post1 charset-normalizer==3.5.3
        flatbuffers==25.12.19 gast==0.7.0
        google-pasta==0.2.0 grpcio==1.85.3 idna==3.20 libclang==18.1.1 markdown-it-py==4.3.0 mdurl==0.1.2 namex==0.1.0
        opt_einsum==3.4.0 optree==0.20.0 packaging==26.4 Pygments==2.21.0 requests==2.34.2 rich==15.0.0 setuptools==65.5.0
        six==1.17.0 termcolor==3.3.0 typing_extensions==4.16.0 urllib3==2.8.0 wheel==0.48.0 wrapt==2.5.2
        """.split()
    ),
    download=300,
    megabytes=1500,
)
CONVERT = Path(__file__).with_name("convert.py")
#: Equal conversions of equal models, without a GPU and without kernels that round otherwise.
SETTINGS = {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "TF_ENABLE_ONEDNN_OPTS": "0"}
#: Seconds that a conversion may take, and a batch.
CONVERSION_PATIENCE, BATCH_PATIENCE = 1800.0, 300.0


class Converter:
    """A SavedModel in TensorFlow. Its ONNX file, at `onnx`, has inputs input_0 .. and outputs output_0 .. in a reading's order.

    InvalidInput where TensorFlow or tf2onnx refuse the model, TopworkError where they crash or take too long. The process ends
    with this object, or with this process.
    """

    def __init__(self, model: SavedModel, reading: Reading, onnx: Path) -> None:
        program = TENSORFLOW.python()
        self._folder = tempfile.TemporaryDirectory()
        self.name, self._batches = model.folder.name, 0
        request = Path(self._folder.name) / "request.json"
        request.write_text(
            json.dumps(
                {
                    "folder": str(model.folder),
                    "tags": list(model.tags),
                    "signature": reading.signature.name,
                    "inputs": list(reading.inputs.values()),
                    "outputs": list(reading.outputs),
                    "tokens": reading.tokens,
                    "onnx": str(onnx),
                }
            ),
            "utf-8",
        )
        self._log = (Path(self._folder.name) / "log").open("w+b")
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")} | SETTINGS
        process = self._process = subprocess.Popen(
            [program, "-P", "-s", CONVERT, request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._end = weakref.finalize(self, _end, process, self._log, self._folder)
        try:
            self.facts: Mapping[str, Any] = self._answer(CONVERSION_PATIENCE)["facts"]
        except BaseException:
            self._end()
            raise

    def run(self, inputs: Sequence[Array]) -> dict[str, Array]:
        """The outputs of a batch as float32, by their names in the ONNX file. InvalidInput where TensorFlow refuses it."""
        self._batches += 1
        path = Path(self._folder.name) / f"{self._batches}.npz"
        arrays: dict[str, Any] = {f"input_{i}": array for i, array in enumerate(inputs)}
        np.savez(path, **arrays)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # one that has died says below how
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
        with np.load(self._answer(BATCH_PATIENCE)["outputs"], allow_pickle=False) as outputs:
            return dict(outputs)

    def _answer(self, seconds: float) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        late = not timer.is_alive()
        timer.cancel()
        if not line:
            raise self._crash(f"took more than {seconds:.0f} s" if late else "")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise InvalidInput(f"{self.name} cannot be read: {answer['error']}", remedy=answer["remedy"])
        return answer

    def _crash(self, how: str) -> TopworkError:
        """The error for a process that ended without an answer; `how` says why we ended it."""
        status = self._process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        how = how or (f"was killed by signal {-status}" if status < 0 else f"ended with status {status}")
        return TopworkError(
            f"the conversion of {self.name} {how}: {''.join(last)[:300] or 'it wrote nothing'}",
            remedy="see that memory and disk suffice, and pull again; if it fails again, delete $TOPWORK_HOME/environments",
        )


def _end(process: subprocess.Popen[str], log: BinaryIO, folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    with process, log, folder:
        pass
