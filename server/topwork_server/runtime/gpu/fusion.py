"""Fusion of a BERT's attention, bias and GELU into single nodes, by onnxruntime's own pattern matcher.

It finds nothing in a graph as it is exported (transformers 5 writes the mask as a page of shape arithmetic, and its symbolic
shape inference fails on that); after the basic pass, and given the number of heads, it finds all layers. Where there is no
attention, or a pattern that is not known, the graph stays as it was.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from topwork_server.runtime.gpu.graph_optimization import Model, copied

log = logging.getLogger(__name__)

ATTENTION = "Attention"


def fuse_attention(model: Model) -> Model:
    """Fuse attention, or return the model as it is. Fused attention reads the mask as lengths (a row's 1s, then its 0s): the form
    that cuDNN's and TensorRT's attention kernels take. Our encoders pad on the right, so nothing is lost."""
    heads, hidden = attention_shape(model)
    if not heads:
        return model
    try:
        found = _match_attention(model, heads, hidden)
    except Exception as error:  # the matcher assumes much of a graph that looks like attention
        log.info("attention stays as it was exported: %s: %s", type(error).__name__, error)
        return model
    return found if any(node.op_type == ATTENTION for node in found.graph.node) else model


def _match_attention(model: Model, heads: int, hidden: int) -> Model:
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    options = FusionOptions("bert")
    options.attention_mask_format = AttentionMaskFormat.MaskIndexEnd
    options.use_raw_attention_mask(False)
    options.enable_embed_layer_norm = False  # it wants int32 ids and gives nothing at these sizes
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = (
        False  # the CUDA provider does it when it opens a graph
    )
    optimizer = BertOnnxModel(copied(model), heads, hidden)
    optimizer.disable_shape_inference()  # it fails on our graphs, and says so on stdout
    optimizer.optimize(options)
    optimizer.topological_sort()
    return optimizer.model


def attention_shape(model: Model) -> tuple[int, int]:
    """Return (heads, hidden size) of the self-attention, read from the graph; (0, 0) where there is none.

    The hidden size is that of most LayerNormalizations (ALBERT's first is narrower); the size of a head is what queries are
    reshaped to, last.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    norms = [node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"]
    sizes = Counter(int(constants[name].dims[0]) for name in norms if name in constants)
    if not sizes:
        return 0, 0
    hidden = sizes.most_common(1)[0][0]
    for softmax in (node for node in model.graph.node if node.op_type == "Softmax"):
        size = _head_size(softmax, made_by, constants, numpy_helper.to_array)
        if size and hidden % size == 0:
            return hidden // size, hidden
    return 0, 0


def _head_size(softmax: Any, made_by: dict[str, Any], constants: dict[str, Any], read: Any) -> int:
    """Follow a softmax up to the reshape of its queries: the last number of that shape; 0 where the way is another."""
    node = softmax
    while node is not None and node.op_type != "Reshape":
        above = [made_by[name] for name in node.input if name in made_by]
        node = next((one for one in above if one.op_type in ("Add", "Mul", "Div", "MatMul", "Transpose", "Reshape")), None)
    if node is None:
        return 0
    shape = node.input[1]
    if shape in constants:
        return int(read(constants[shape])[-1])
    parts = made_by[shape].input if shape in made_by and made_by[shape].op_type == "Concat" else ()
    return int(read(constants[parts[-1]]).reshape(-1)[-1]) if parts and parts[-1] in constants else 0
