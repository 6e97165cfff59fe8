"""onnxruntime's own quantizer: an fp32 graph becomes one whose convolutions run on 8-bit integers (QDQ form)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

#: Operators that run on integers: convolutions, and what stands between them, so that values stay integers from one to the next.
OPERATORS = ("Conv", "Add", "Concat", "MaxPool", "Relu", "Clip")

#: By tensor, the least and the largest value that it may take; what lies outside is cut off.
Ranges = Mapping[str, tuple[float, float]]


def prepare(model: Path, out: Path) -> None:
    """Fold batch norms and constants, so that each convolution is one node whose output's range can be measured."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _quietly(quant_pre_process, str(model), str(out), skip_symbolic_shape=True)
    prepared = onnx.load(str(out))
    for position, node in enumerate(prepared.graph.node):
        node.name = f"{position}.{node.op_type}"  # they need not have one, and `write` goes by it
    onnx.save(prepared, str(out))


def write(model: Path, ranges: Ranges, fp32: Collection[str], out: Path, *, narrow: bool = False) -> None:
    """Activations in 8 bits a tensor with a zero point, weights in 8 bits a channel without one.

    `model` comes from `prepare`; the nodes named in `fp32` are left as they are. `narrow` leaves a bit of each weight unused, for
    processors that add pairs of products in 16 bits (x86 without VNNI), where full ones overflow.
    """
    import numpy as np
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        onnx.load(str(model)),
        per_channel=True,
        reduce_range=narrow,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=None,
        nodes_to_exclude=list(fp32),
        op_types_to_quantize=list(OPERATORS),
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    _quietly(quantizer.quantize_model)
    quantizer.model.save_model_to_file(str(out))


def _quietly(work: Any, *arguments: Any, **named: Any) -> None:
    """Run without the quantizer's log messages and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work(*arguments, **named)
    finally:
        logging.disable(before)
