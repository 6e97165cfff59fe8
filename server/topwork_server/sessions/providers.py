"""Whether an execution provider really works here: onnxruntime lists CUDA wherever its build has it, with a GPU or without."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topwork_server.errors import StartError
from topwork_server.sessions.session import Session, choose_provider


@dataclass(frozen=True, slots=True)
class Device:
    """Where, and in what precision, a graph is computed: cpu fp32, openvino bf16, openvino fp32, cuda fp16, cuda fp32,
    tensorrt fp16. `index` is the GPU's."""

    provider: str
    precision: str = "fp32"
    index: int = 0

    def __str__(self) -> str:
        return f"{self.provider} {self.precision}"


#: The reference's own: every artifact runs on it.
PLAIN = Device("cpu")


def check_provider(asked: str) -> str:
    """The provider that `asked` comes to. StartError where it is not one, or takes no graph on this machine."""
    chosen = choose_provider(asked)
    if chosen != "cpu":
        probe(chosen)
    return chosen


def probe(provider: str) -> None:
    """Run a graph of one Relu on it."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "probe.onnx"
        _write_probe(model)
        try:
            (answer,) = Session(model, provider).run(["y"], {"x": np.array([-2.0], np.float32)})
        except StartError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StartError(
                f"the provider {provider} does not work here: {reason}",
                remedy="run `topwork doctor`, or serve with --provider cpu",
            ) from error
    if answer.tolist() != [0.0]:
        raise StartError(f"the provider {provider} computes wrongly: Relu(-2) is {answer}", remedy="serve with --provider cpu")


def _write_probe(path: Path) -> None:
    from onnx import TensorProto, helper, save

    (x, y) = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
