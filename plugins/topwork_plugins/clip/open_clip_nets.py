"""The torch side of open_clip's folders: each tower as a module. Imported by the export process alone, after
`topwork_server.prepare_torchvision()`."""

from __future__ import annotations

from typing import Any

import torch
from topwork_server import Granularity, InvalidInput, Tap
from torch import Tensor, nn

from topwork_plugins.clip.layout import OPEN_CLIP_CONFIG, Layout
from topwork_plugins.clip.towers import POOLED
from topwork_plugins.config_checks import check_numbers
from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.weight_files import check_whole, is_of_file, refuse_misfits, size_mismatches, unreadable

APART = "its open_clip_config.json and its weights do not belong together; copy the folder again"
#: Files of weights that are read, the first that is there.
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


class OpenClipTexts(nn.Module):
    """(batch, context_length) int64 token ids to (pooled,)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.net: Any = _text_tower(model)
        self.length = int(model.context_length)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        return (self.net.encode_text(input_ids, normalize=True),)

    def taps(self) -> tuple[Tap, ...]:
        return (Tap("pooled", _pooled_dim(self, torch.zeros(1, self.length, dtype=torch.int64)), Granularity.ITEM, None, POOLED),)


class OpenClipImages(nn.Module):
    """(batch, 3, height, width) float32 to (pooled, block.1 .. block.N); a tower that is no plain ViT has `pooled` alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.net = model.visual
        self.size = _pair(self.net.image_size)
        self.with_blocks = type(self.net).__name__ == "VisionTransformer"

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        if not self.with_blocks:
            return (nn.functional.normalize(self.net(pictures), dim=-1),)
        found = self.net.forward_intermediates(pictures, output_fmt="NLC")
        return (nn.functional.normalize(found["image_features"], dim=-1), *found["image_intermediates"])

    def taps(self) -> tuple[Tap, ...]:
        """List the taps of `forward`, in its order."""
        pooled = Tap("pooled", _pooled_dim(self, torch.zeros(1, 3, *self.size)), Granularity.ITEM, None, POOLED)
        if not self.with_blocks:
            return (pooled,)
        dim, grid = self.net.conv1.out_channels, _pair(self.net.grid_size)
        blocks = range(1, len(self.net.transformer.resblocks) + 1)
        return (pooled, *(Tap(f"block.{n}", dim, Granularity.CELL, grid, f"the patches after block {n}") for n in blocks))


class _TextOfClip(nn.Module):
    """The text tower of open_clip's CLIP class, which has its parts beside those of the image tower."""

    PARTS = ("transformer", "token_embedding", "ln_final")

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name in self.PARTS:
            setattr(self, name, getattr(model, name))
        self.positional_embedding, self.text_projection = model.positional_embedding, model.text_projection
        self.register_buffer("attn_mask", model.attn_mask, persistent=False)
        self.text_pool_type, self.text_eos_id = model.text_pool_type, model.text_eos_id
        self._encode = type(model).encode_text

    def encode_text(self, text: Tensor, normalize: bool) -> Tensor:
        encoded: Tensor = self._encode(self, text, normalize)
        return encoded


class _TextOfCustom(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = model.text

    def encode_text(self, text: Tensor, normalize: bool) -> Tensor:
        return nn.functional.normalize(self.text(text), dim=-1)


def load_model(layout: Layout) -> tuple[Any, list[str]]:
    """The model of a folder in fp32, and the names of the weights that it has no place for. InvalidInput where a weight is
    missing or of another shape; nothing is unpickled, and nothing downloaded."""
    import open_clip
    from open_clip.factory import load_checkpoint

    weights = next((layout.folder / name for name in WEIGHTS if (layout.folder / name).exists()), None)
    if weights is None:
        raise InvalidInput(f"{layout.folder.name} has no weights", remedy=f"add its {WEIGHTS[0]}, as the hub has it")
    check_whole(weights)
    check_numbers(layout.folder / OPEN_CLIP_CONFIG, [weights])
    try:
        model = open_clip.create_model(
            f"local-dir:{layout.folder}", load_weights=False, pretrained_image=False, pretrained_text=False
        )
        report = load_checkpoint(model, str(weights), strict=False, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a wrong value in its JSON fails wherever it is used
        if is_of_file(error):
            raise unreadable(weights, error) from error
        refuse_misfits(layout.folder.name, (), size_mismatches(error), (), APART)
        raise InvalidInput(
            f"the model in {layout.folder.name} could not be read: {' '.join(str(error).split())[:300]}",
            remedy=APART,
        ) from error
    refuse_misfits(layout.folder.name, report.missing_keys, (), (), APART)
    return model.eval(), sorted(report.unexpected_keys)


def recipe_of(layout: Layout, size: tuple[int, int]) -> Recipe:
    """Read how pictures are prepared. InvalidInput where this is not known here."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    said = layout.preprocess
    mode = {"shortest": "center", "squash": "squash"}.get(said.get("resize_mode") or "shortest")
    if mode is None or (mode == "center" and size[0] != size[1]) or said.get("mode", "RGB") != "RGB":
        raise InvalidInput(f"{layout.folder.name} prepares pictures by {dict(said)}: not supported here", remedy="take another")
    mean, std = said.get("mean") or OPENAI_DATASET_MEAN, said.get("std") or OPENAI_DATASET_STD
    interpolation = "bilinear" if said.get("interpolation") == "bilinear" else "bicubic"
    return Recipe(size, size, "squash" if mode == "squash" else "center", interpolation, _channels(mean), _channels(std))


def _text_tower(model: Any) -> nn.Module:
    return _TextOfCustom(model) if hasattr(model, "text") else _TextOfClip(model)


def _pooled_dim(module: nn.Module, example: Tensor) -> int:
    with torch.no_grad():
        return int(module.eval()(example)[0].shape[-1])


def _channels(value: Any) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
