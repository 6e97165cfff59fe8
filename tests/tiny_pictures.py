"""Tiny random picture models of transformers, in folders as on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from topwork_server import prepare_torchvision

prepare_torchvision()

#: Height and width of the pictures that all of them read.
SIZE = 64

_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 16}
_MLP = {**_VIT, "intermediate_size": 48}
_SWIN = {
    "image_size": SIZE,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
_HEADS = {**_STAGES, "image_size": SIZE, "num_attention_heads": [1, 1, 2, 2]}

#: config.json of each, by its model_type.
CONFIGS: dict[str, dict[str, Any]] = {
    "beit": {**_MLP, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    "clip_vision_model": _MLP,
    "convnext": {**_STAGES, "image_size": SIZE},
    "convnextv2": {**_STAGES, "image_size": SIZE},
    "data2vec-vision": _MLP,
    "deit": _MLP,
    "dinov2": {**_VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**_VIT, "mlp_ratio": 2, "num_register_tokens": 4},
    "dinov3_convnext": {**_STAGES, "image_size": SIZE},
    "dinov3_vit": {**_MLP, "num_register_tokens": 4},
    "focalnet": {"image_size": SIZE, "embed_dim": 16, "depths": [1] * 4},
    "hiera": {"image_size": [SIZE, SIZE], "embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]},
    "ijepa": _MLP,
    "levit": {
        "image_size": SIZE,
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [1, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": SIZE},
    "pvt": {**_HEADS, "depths": [1] * 4},
    "pvt_v2": {**_HEADS, "depths": [1] * 4},
    "regnet": {**_STAGES, "embedding_size": 8, "groups_width": 8},
    "resnet": {**_STAGES, "embedding_size": 8},
    "siglip_vision_model": _MLP,
    "swiftformer": {"image_size": SIZE, "depths": [1] * 4, "embed_dims": [8, 16, 24, 32]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit": _MLP,
    "vit_mae": _MLP,
    "vit_msn": _MLP,
}
#: As most of them are prepared, at this size.
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIZE, "width": SIZE}, "resample": 3}


def random_model(kind: str, maker: str = "AutoModel", **changes: Any) -> Any:
    """A model of transformers whose weights are spread wide, so that each of them matters, and its norms are not trivial."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})
    model = getattr(transformers, maker)
    model = model.from_config(config) if maker.startswith("Auto") else model(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        elif not name.endswith("bias"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model.eval()


def write(model: Any, folder: Path, **processor: Any) -> Path:
    """A folder as on the hub; `processor` changes its preprocessor_config.json."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **processor}))
    return folder
