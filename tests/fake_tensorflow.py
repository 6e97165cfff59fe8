"""Stands for the environment with TensorFlow: the network of plugins/topwork_plugins/saved_model/convert.py is the converted.onnx
of the folder, run by onnx's own reference. A file `fault` in the folder says what goes wrong."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from topwork_plugins.saved_model import convert


class FakeNetwork:
    def __init__(self, request: dict[str, Any]) -> None:
        folder = Path(request["folder"])
        self._onnx, self._fault = request["onnx"], (folder / "fault").read_text() if (folder / "fault").exists() else ""
        shutil.copyfile(folder / "converted.onnx", self._onnx)
        self._net = ReferenceEvaluator(self._onnx)

    def convert(self) -> dict[str, Any]:
        match self._fault:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "broken":
                sys.exit("ImportError: libtensorflow is not there")
            case "refused":
                raise convert.Refused("it needs BesselI0e, which ONNX does not have", "take another")
            case "slow":
                Path(self._onnx).with_suffix(".pid").write_text(str(os.getpid()))
                time.sleep(60)
        return {"versions": {"tensorflow-cpu": "0.1", "tf2onnx": "0.2"}, "lower_case": None}

    def run(self, path: Path) -> Path:
        with np.load(path) as arrays:
            inputs = dict(arrays)
        if self._fault == "one by one" and len(inputs["input_0"]) > 1:
            raise ValueError("the batch is 1")
        if self._fault == "dies":
            sys.exit("no more memory")
        outputs: dict[str, Any] = dict(zip(self._net.output_names, self._net.run(None, inputs), strict=True))
        if self._fault == "another":
            outputs = {name: np.roll(array, 1, axis=-1) for name, array in outputs.items()}
        out = path.with_suffix(".out.npz")
        np.savez(out, **outputs)
        return out


if __name__ == "__main__":
    convert.main(FakeNetwork)
