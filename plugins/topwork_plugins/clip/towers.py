"""The torch side of transformers' CLIP and SigLIP: each tower as a module that gives all its taps in one pass.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from topwork_server import Granularity, InvalidInput, Tap
from torch import Tensor, nn

POOLED = "the projected embedding in the space of texts and pictures, of unit length"


class TransformersTexts(nn.Module):
    """Token ids to (pooled, tokens, hidden.0 .. hidden.N). forward takes the tensors that `inputs` names, each (batch, tokens)
    int64."""

    def __init__(self, model: Any, inputs: Sequence[str]) -> None:
        super().__init__()
        self.net = model.text_model
        self.projection = getattr(model, "text_projection", nn.Identity())
        self.inputs = tuple(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.net(**dict(zip(self.inputs, tensors, strict=True)), output_hidden_states=True, return_dict=True)
        return (unit(self.projection(found.pooler_output)), found.last_hidden_state, *found.hidden_states)

    def taps(self) -> tuple[Tap, ...]:
        """List the taps of `forward`, in its order."""
        dim, layers = self.net.config.hidden_size, self.net.config.num_hidden_layers
        hidden = [f"tokens after layer {n}" if n else "token embeddings" for n in range(layers + 1)]
        return (
            Tap("pooled", _width(self.projection, self._pooled_dim()), Granularity.ITEM, description=POOLED),
            Tap("tokens", dim, Granularity.TOKEN, description="tokens after the last layer and its norm"),
            *(Tap(f"hidden.{n}", dim, Granularity.TOKEN, description=what) for n, what in enumerate(hidden)),
        )

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """List the blocks of `Trunk.blocks`, from the bottom up."""
        return (("net.embeddings.",), *_layers(self.net))

    def _pooled_dim(self) -> int:
        head = getattr(self.net, "head", None)
        return int(head.out_features) if isinstance(head, nn.Linear) else int(self.net.config.hidden_size)


class TransformersImages(nn.Module):
    """(batch, 3, size, size) float32 to (pooled, cls where there is a class token, patches, block.1 .. block.N)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.net = model.vision_model
        self.projection = getattr(model, "visual_projection", nn.Identity())
        self.with_cls = hasattr(self.net.embeddings, "class_embedding")
        if not self.with_cls and not self.net.config.vision_use_head:
            raise InvalidInput("the vision tower has no pooling head, so it has no embedding", remedy="name another model")

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        found = self.net(pixel_values=pictures, output_hidden_states=True, return_dict=True)
        first = int(self.with_cls)
        rows = (unit(self.projection(found.pooler_output)), *([found.pooler_output] if self.with_cls else []))
        return (*rows, *(each[:, first:] for each in (found.last_hidden_state, *found.hidden_states[1:])))

    def taps(self) -> tuple[Tap, ...]:
        """List the taps of `forward`, in its order."""
        config = self.net.config
        dim, side = config.hidden_size, config.image_size // config.patch_size
        cells = {"patches": "the patches, as the net gives them"}
        cells |= {f"block.{n}": f"the patches after block {n}" for n in range(1, config.num_hidden_layers + 1)}
        cls = Tap("cls", dim, Granularity.ITEM, description="the class token after the last block and its norm")
        return (
            Tap("pooled", _width(self.projection, dim), Granularity.ITEM, description=POOLED),
            *([cls] if self.with_cls else []),
            *(Tap(name, dim, Granularity.CELL, (side, side), what) for name, what in cells.items()),
        )

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """List the blocks of `Trunk.blocks`, from the bottom up."""
        return (("net.embeddings.", "net.pre_layrnorm."), *_layers(self.net))


def unit(rows: Tensor) -> Tensor:
    """Rows of unit length, as the model compares them."""
    return torch.nn.functional.normalize(rows, dim=-1)


def _width(projection: nn.Module, otherwise: int) -> int:
    return int(projection.out_features) if isinstance(projection, nn.Linear) else otherwise


def _layers(net: Any) -> tuple[tuple[str, ...], ...]:
    return tuple((f"net.encoder.layers.{n}.",) for n in range(net.config.num_hidden_layers))
