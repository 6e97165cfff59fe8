"""Reads what a folder says of the model of texts and pictures that it holds, in the layout of a library:

    transformers             config.json (model_type clip or siglip), preprocessor_config.json, weights, tokenizer
    open_clip                open_clip_config.json, weights, and a tokenizer unless it is CLIP's own
    sentence-transformers    modules.json, whose CLIPModel is a folder of transformers

JSON only: no weights are opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from topwork_server import InvalidInput

from topwork_plugins.idle_keys import without_idle
from topwork_plugins.json_files import folder_in, load, read_json

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
WANTED = "name the folder of a CLIP or SigLIP of transformers or open_clip"
#: Weights as transformers names them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
#: The processor of pictures where a folder names none, by model_type of transformers.
PROCESSORS = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}
#: What else config.json says that no feature depends on.
IDLE_KEYS = r"use_cache|(attention_)?dropout|initializer_(factor|range)|gradient_checkpointing|logit_scale_init_value"


@dataclass(frozen=True)
class Layout:
    """`config` is that of the model, without what says how pictures are prepared; `preprocess` says that of open_clip's."""

    library: Literal["transformers", "open_clip"]
    folder: Path
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """transformers' model_type, or open_clip."""
        return str(self.config.get("model_type")) if self.library == "transformers" else "open_clip"

    def definition(self, tower: Literal["text", "vision"]) -> dict[str, Any]:
        """The parts of the architecture of one tower that change what a feature means."""
        if self.library == "open_clip":
            common = {key: value for key, value in self.config.items() if key not in ("text_cfg", "vision_cfg")}
            return {"library": "open_clip", "tower": tower, "config": {**common, tower: self.config[f"{tower}_cfg"]}}
        config = without_idle(self.config.get(f"{tower}_config") or {}, IDLE_KEYS)
        return {"model": self.kind, "tower": tower, "projection": self.config.get("projection_dim"), "config": config}


def read_layout(folder: Path) -> Layout:
    """Read the layout of a folder. InvalidInput where it holds no model that this family reads."""
    if (folder / OPEN_CLIP_CONFIG).exists() and not _is_of_transformers(folder):
        return _open_clip(folder)
    folder = _clip_module(folder)
    config = read_json(folder / CONFIG, WANTED)
    kind = config.get("model_type")
    if kind == "siglip2":
        raise InvalidInput(
            f"{folder.name} is a SigLIP 2 of the NaFlex kind, which reads pictures of any shape: not supported here",
            remedy="take a SigLIP 2 of one size, such as google/siglip2-base-patch16-224",
        )
    if kind not in PROCESSORS:
        raise InvalidInput(
            f"{folder.name} is a {kind or 'nameless'!r} model (config.json), and not of texts and pictures in one space",
            remedy=f"this family reads {' and '.join(PROCESSORS)} of transformers, and open_clip's folders",
        )
    return Layout("transformers", folder, config, {})


def is_ours(folder: Path) -> bool:
    """Tell whether the folder holds a model of this family, by its JSON files alone."""
    try:
        read_layout(folder)
    except InvalidInput:
        return False
    return True


def _is_of_transformers(folder: Path) -> bool:
    """Tell whether a folder of open_clip holds the same model as transformers reads it, which has more taps."""
    try:
        return read_json(folder / CONFIG).get("model_type") in PROCESSORS and any((folder / name).exists() for name in WEIGHTS)
    except InvalidInput:
        return False


def _clip_module(folder: Path) -> Path:
    """The folder of the one module of a sentence-transformers model that is a CLIP; any other folder is itself."""
    try:
        modules = load(folder / "modules.json")
        [module] = [one for one in modules if str(one["type"]).endswith(".CLIPModel")]
        path = str(module["path"])
    except (OSError, ValueError, TypeError, KeyError):
        return folder
    return folder_in(folder, path, "modules.json")


def _open_clip(folder: Path) -> Layout:
    found = read_json(folder / OPEN_CLIP_CONFIG, WANTED)
    config, preprocess = found.get("model_cfg"), found.get("preprocess_cfg") or {}
    if not isinstance(config, dict) or not all(isinstance(config.get(part), dict) for part in ("text_cfg", "vision_cfg")):
        raise InvalidInput(f"{OPEN_CLIP_CONFIG} of {folder.name} has no model_cfg of two towers", remedy="copy the folder again")
    strange = [key for key in ("hf_model_name", "tokenizer_mode") if config["text_cfg"].get(key)]
    strange += [key for key in ("multimodal_cfg", "audio_cfg") if key in config]
    strange += [
        key for key in ("strip_sep_token", "reduction_mask") if (config["text_cfg"].get("tokenizer_kwargs") or {}).get(key)
    ]
    if strange:
        raise InvalidInput(f"the open_clip model {folder.name} has {strange[0]}, which is not read here", remedy="take another")
    return Layout("open_clip", folder, config, preprocess)
