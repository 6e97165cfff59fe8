"""The folder of a transformers or sentence-transformers model: what it says of itself, and a copy with other weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import BaseEncoder, InvalidInput

from topwork_plugins.bert.layout import Layout, read_layout
from topwork_plugins.bert.mask_token import mask_of

#: Files of the transformer's folder that saving writes, and those that describe the model as it was.
_REPLACED = frozenset({"config.json", "generation_config.json", "README.md", "training_args.bin", "pretraining.json"})
_WEIGHTS = frozenset({".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".index"})
#: Folders with the model in other formats.
_FORMATS = frozenset({"onnx", "openvino", "coreml"})


@dataclass(frozen=True)
class ModelFolder:
    """`root` is what the encoder is read from; `layout` names the folder within it that holds config.json."""

    name: str
    family: str
    settings: Mapping[str, Any]
    root: Path
    layout: Layout

    @classmethod
    def of(cls, base: BaseEncoder | None) -> ModelFolder:
        """Look at the folder of an encoder. InvalidInput where it holds no model of transformers."""
        assert base is not None, "the kinds need an encoder"
        root = base.assets
        if not root.is_dir() or not ((root / "config.json").is_file() or (root / "modules.json").is_file()):
            raise InvalidInput(
                f"{base.spec.name} is no model of transformers ({base.family} reads it): it has no language model's head",
                remedy="name an encoder that is",
            )
        return cls(base.spec.name, base.family, dict(base.spec.settings), root, read_layout(root))

    @property
    def transformer(self) -> Path:
        return self.layout.transformer

    @property
    def model_type(self) -> str:
        return str(self.layout.config["model_type"])

    @property
    def mask(self) -> str:
        """The mask of its tokenizer; "" where its files name none."""
        return mask_of(self.transformer)

    def copy(self, out: Path) -> Path:
        """Copy all but the transformer's weights and configuration into `out`; return where those go."""
        for path in self.root.rglob("*"):
            place = path.relative_to(self.root)
            if path.is_file() and not self._is_replaced(path) and not any(part in _FORMATS for part in place.parts[:-1]):
                (out / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, out / place)
        target = out / self.transformer.relative_to(self.root)
        target.mkdir(parents=True, exist_ok=True)
        return target

    def _is_replaced(self, path: Path) -> bool:
        """Tell whether a file is one of the transformer's that are written anew, or no part of a model."""
        hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
        inside = path.parent == self.transformer
        weights = path.suffix in _WEIGHTS or path.name.endswith(".index.json")
        return hidden or path.name == "README.md" or (inside and (weights or path.name in _REPLACED))
