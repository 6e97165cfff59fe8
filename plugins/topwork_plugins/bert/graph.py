"""The torch side: a transformers encoder and its poolings as one module that gives all taps in one pass.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import Tensor, nn

from topwork_plugins.bert.architectures import PooledTap
from topwork_plugins.bert.layout import Layout, Stage
from topwork_plugins.bert.pair_head import PairHead
from topwork_plugins.config_checks import check_numbers
from topwork_plugins.parameter_blocks import by_prefix
from topwork_plugins.weight_files import misshapen, read_tensors, refuse_misfits, weights_of

#: Parameters outside of the layers that the first of them needs already; final norms are not among them.
_BOTTOM = re.compile(r"embed|relative_attention|_emb$|project_in|\bwte\b|\bwpe\b|\bshared\b")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}


class PooledEncoder(nn.Module):
    """Token ids to (pooled, tokens, a row a text for each of `each`, hidden.0 .. hidden.N, scores), as `layout.taps` says.

    forward takes the tensors that `inputs` names, in that order, each (batch, tokens) int64; attention_mask and
    pooling_mask are 1 for real tokens and 0 for padding, which stands on the right. Without a pooling_mask all real
    tokens are pooled.
    """

    def __init__(
        self,
        encoder: Any,
        inputs: Sequence[str],
        poolings: Sequence[str],
        stages: nn.Sequential,
        each: Sequence[PooledTap],
        hidden: bool = True,
        scores: PairHead | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.inputs = tuple(inputs)
        self.poolings = tuple(poolings)
        self.stages = stages
        self.each = tuple(tap.mode for tap in each)
        self.hidden = hidden
        self.scores = scores

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        attended = given["attention_mask"]
        pooled_over = given.pop("pooling_mask", attended)
        found = self.encoder(**given, output_hidden_states=self.hidden, return_dict=True)
        tokens = found.last_hidden_state
        own = torch.cat([pool(mode, tokens, pooled_over) for mode in self.poolings], dim=-1)
        each = (pool(mode, tokens, attended) for mode in self.each)
        scores = () if self.scores is None else (self.scores(found, given),)
        return (self.stages(own), tokens, *each, *(found.hidden_states if self.hidden else ()), *scores)


def blocks(encoder: Any) -> tuple[tuple[str, ...], ...]:
    """Return the `Trunk.blocks` of a PooledEncoder: embeddings (and what all layers read of positions), then the layers.

    Layers that share their weights (ALBERT's) are one block. () where the layers cannot be found.
    """
    found = [(name, part) for name, part in encoder.named_modules() if isinstance(part, nn.ModuleList)]
    if not found:
        return ()
    place, layers = found[0]
    others = [f"encoder.{name}" for name, _ in encoder.named_parameters() if not name.startswith(f"{place}.")]
    bottom = [name for name in others if _BOTTOM.search(name)]
    first, _ = by_prefix([bottom, [name for name in others if name not in bottom] + [f"encoder.{place}.0.weight"]])
    return (first, *((f"encoder.{place}.{n}.",) for n in range(len(layers))))


class Normalize(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.normalize(rows, p=2.0, dim=-1)


def pool(mode: str, tokens: Tensor, mask: Tensor) -> Tensor:
    """Pool (batch, tokens, dim) with a (batch, tokens) mask to (batch, dim), as sentence-transformers defines its modes."""
    if mode == "max":
        lowest = torch.finfo(tokens.dtype).min
        return tokens.masked_fill(mask.unsqueeze(-1) == 0, lowest).amax(dim=1)
    return (_weights(mode, mask.to(tokens.dtype)).unsqueeze(1) @ tokens).squeeze(1)


def _weights(mode: str, mask: Tensor) -> Tensor:
    """Weights of the tokens in the pooled row: every mode but max is a weighted sum. Padding counts 0."""
    count = mask.sum(dim=1, keepdim=True)
    place = mask.cumsum(dim=1)
    if mode == "cls":
        return mask * (place == 1)
    if mode == "lasttoken":
        return mask * (place == count)
    if mode == "mean_sqrt_len_tokens":
        return mask / count.sqrt()
    if mode == "weightedmean":
        ramp = mask * torch.ones_like(mask).cumsum(dim=1)
        return ramp / ramp.sum(dim=1, keepdim=True)
    return mask / count


def build_stages(layout: Layout, dim: int) -> tuple[nn.Sequential, int]:
    """The modules after the pooling, and the dim that comes out of them. `dim` is that of one pooling."""
    width = dim * len(layout.poolings)
    modules: list[nn.Module] = []
    for stage in layout.stages:
        if stage.kind == "Normalize":
            modules.append(Normalize())
        else:
            modules.extend(_dense(stage, width))
            width = int(stage.config["out_features"])
    return nn.Sequential(*modules), width


def _dense(stage: Stage, width: int) -> list[nn.Module]:
    config = stage.config
    if config["in_features"] != width:
        raise InvalidInput(f"{stage.folder.name} reads {config['in_features']} numbers, and the pooling gives {width}")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"{stage.folder.name} has the activation {activation}", remedy=f"known are {', '.join(ACTIVATIONS)}")
    check_numbers(stage.folder / "config.json", ())
    with torch.device("meta"):  # until its weights are known to be of that size
        linear = nn.Linear(width, config["out_features"], bias=config.get("bias", True))
    found = {key.removeprefix("linear."): value for key, value in _read_tensors(stage.folder).items()}
    wanted = linear.state_dict()
    refuse_misfits(
        stage.folder.name,
        wanted.keys() - found.keys(),
        misshapen(wanted, found),
        found.keys() - wanted.keys(),
        "its config.json and its weights do not belong together; copy the model's folder again, with its sub-folders",
    )
    linear.to_empty(device="cpu").load_state_dict(found)
    return [linear, ACTIVATIONS[activation]()]


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if weights := weights_of(folder):
        return read_tensors(weights[0])
    raise InvalidInput(f"{folder} has no model.safetensors", remedy="copy the model's folder again, with its sub-folders")
