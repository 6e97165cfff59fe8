"""Reads what a folder in transformers' layout says of a picture model: config.json and preprocessor_config.json. JSON only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput

from topwork_plugins.idle_keys import LEARNING, without_idle
from topwork_plugins.json_files import read_json

#: The architectures (config.json, model_type) that the tests compare with transformers, and the processor of each where a
#: folder does not name its own.
PROCESSORS = {
    "beit": "BeitImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "convnext": "ConvNextImageProcessor",
    "convnextv2": "ConvNextImageProcessor",
    "data2vec-vision": "BeitImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
    "dinov3_convnext": "DINOv3ViTImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "focalnet": "BitImageProcessor",
    "hiera": "BitImageProcessor",
    "ijepa": "ViTImageProcessor",
    "levit": "LevitImageProcessor",
    "mobilenet_v1": "MobileNetV1ImageProcessor",
    "pvt": "PvtImageProcessor",
    "pvt_v2": "PvtImageProcessor",
    "regnet": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "swiftformer": "ViTImageProcessor",
    "swin": "ViTImageProcessor",
    "swinv2": "ViTImageProcessor",
    "vit": "ViTImageProcessor",
    "vit_mae": "ViTImageProcessor",
    "vit_msn": "ViTImageProcessor",
}
CLASSIFIER = "ForImageClassification"
WANTED = "name the folder of a transformers model"

#: What else config.json says that no feature depends on.
IDLE_KEYS = r"drop_path_rate|num_labels|auto_map|out_features|out_indices|stage_names|apply_layernorm|reshape_hidden_states"


@dataclass(frozen=True)
class Layout:
    """A model's folder and its config.json. `classifier` names the class of transformers where it holds a classifier."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The model_type."""
        return str(self.config["model_type"])

    @property
    def classifier(self) -> str | None:
        return next((str(n) for n in self.config.get("architectures") or () if CLASSIFIER in str(n)), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes; none where config.json has no more than LABEL_0, LABEL_1 ..."""
        listed = self.config.get("id2label") or {}
        names = [str(name) for _, name in sorted(listed.items(), key=lambda pair: int(pair[0]))]
        return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else tuple(names)

    @property
    def definition(self) -> dict[str, Any]:
        """The parts of config.json that change what a feature means."""
        return without_idle(self.config, LEARNING, IDLE_KEYS)


def read_layout(folder: Path) -> Layout:
    """Read config.json. InvalidInput where it is not there, or names no model_type."""
    config = read_json(folder / "config.json", WANTED)
    if not isinstance(config.get("model_type"), str):
        raise InvalidInput(f"config.json of {folder.name} names no model_type", remedy=WANTED)
    return Layout(folder, config)


def check_known(layout: Layout) -> None:
    """Raise InvalidInput unless the model is of an architecture that this family reads without being named."""
    if layout.kind not in PROCESSORS:
        raise InvalidInput(
            f"{layout.folder.name} is a {layout.kind!r} model (config.json), not a picture model that is known here",
            remedy=f"known are {', '.join(sorted(PROCESSORS))}; --family vision tries any picture model of transformers",
        )


def is_ours(folder: Path) -> bool:
    """Tell whether the folder holds a model of this family, by its JSON files alone."""
    try:
        check_known(read_layout(folder))
    except InvalidInput:
        return False
    return True
