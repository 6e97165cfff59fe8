"""The torch side: a transformers encoder and its poolings as one module that gives all taps in one pass.

Imported by the export process alone, after `topwork_server.prepare_torchvision()`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import Tensor, nn

from topwork_plugins.bert.layout import POOLING_TAPS, Layout, Stage
from topwork_plugins.parameter_blocks import by_prefix

#: Parameters outside of the layers that the first of them needs already; final norms are not among them.
_BOTTOM = re.compile("embed|relative_attention")

#: Tables that checkpoints hold and transformers computes.
_NO_WEIGHT = re.compile(r"position_ids$|token_type_ids$|inv_freq$")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}


class PooledEncoder(nn.Module):
    """Token ids to (pooled, tokens, cls, mean, max, hidden.0 .. hidden.N), as `bert_layout.taps` says.

    forward takes the tensors that `inputs` names, in that order, each (batch, tokens) int64; attention_mask and
    pooling_mask are 1 for real tokens and 0 for padding, which stands on the right. Without a pooling_mask all real
    tokens are pooled.
    """

    def __init__(self, encoder: Any, inputs: Sequence[str], poolings: Sequence[str], stages: nn.Sequential) -> None:
        super().__init__()
        self.encoder = encoder
        self.inputs = tuple(inputs)
        self.poolings = tuple(poolings)
        self.stages = stages

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        attended = given["attention_mask"]
        pooled_over = given.pop("pooling_mask", attended)
        found = self.encoder(**given, output_hidden_states=True, return_dict=True)
        tokens = found.last_hidden_state
        own = torch.cat([pool(mode, tokens, pooled_over) for mode in self.poolings], dim=-1)
        each = (pool(mode, tokens, attended) for mode in POOLING_TAPS)
        return (self.stages(own), tokens, *each, *found.hidden_states)


def blocks(encoder: Any) -> tuple[tuple[str, ...], ...]:
    """Return the `Trunk.blocks` of a PooledEncoder: embeddings (and what all layers read of positions), then the layers.

    Layers that share their weights (ALBERT's) are one block. None where the layers cannot be found.
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


def load_encoder(folder: Path) -> tuple[Any, list[str]]:
    """The transformers model of a local folder in fp32, and the names of the weights that it has no place for: heads, the pooler.

    InvalidInput where a weight is missing; nothing is unpickled.
    """
    model, report = _from_pretrained(folder, "AutoModel")
    _refuse_gaps(folder, report)
    unused = [key for key in map(str, report["unexpected_keys"]) if not _NO_WEIGHT.search(key)]
    if getattr(model, "pooler", None) is not None:
        names = [f"pooler.{name}" for name, _ in model.pooler.named_parameters()]
        unused += [name for name in names if name not in report["missing_keys"]]
        model.pooler = None  # trained for another task, or not at all; nothing of it is a feature here
    return model, sorted(unused)


def load_language_model(folder: Path, kind: str) -> tuple[Any, list[str]] | None:
    """The transformers model of a local folder with its head over the vocabulary, as `load_encoder` gives its trunk; None where
    the weights of that head are not there. `kind` is the auto class: AutoModelForMaskedLM."""
    model, report = _from_pretrained(folder, kind)
    trunk = f"{model.base_model_prefix}."
    if any(not key.startswith(trunk) for key in map(str, report["missing_keys"])):
        return None
    _refuse_gaps(folder, report)
    unused = [key for key in map(str, report["unexpected_keys"]) if not _NO_WEIGHT.search(key)]
    return model, sorted(key.removeprefix(trunk) if key.startswith(f"{trunk}pooler.") else key for key in unused)


def _from_pretrained(folder: Path, kind: str) -> tuple[Any, dict[str, Any]]:
    import transformers
    from safetensors import SafetensorError

    try:
        model, report = getattr(transformers, kind).from_pretrained(
            folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise InvalidInput(
            f"the model in {folder.name} could not be read: {str(error).splitlines()[0]}",
            remedy="it should hold config.json and model.safetensors (or pytorch_model.bin), as the hub has them",
        ) from error
    return model, report


def _refuse_gaps(folder: Path, report: dict[str, Any]) -> None:
    """transformers fills missing weights with random numbers; the pooler's do not matter."""
    gaps = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    gaps += sorted(str(key) for key in report.get("mismatched_keys", ()))
    if gaps:
        raise InvalidInput(
            f"{folder.name} lacks {len(gaps)} weights of its architecture, among them {', '.join(gaps[:3])}",
            remedy="its config.json and its weights do not belong together; copy the model again",
        )


def position_limit(model: Any) -> int:
    """The most tokens that the position table takes; RoBERTa and MPNet begin to count after the padding index."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return int(model.config.max_position_embeddings)
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


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
    linear = nn.Linear(width, config["out_features"], bias=config.get("bias", True))
    found = {key.removeprefix("linear."): value for key, value in _read_tensors(stage.folder).items()}
    linear.load_state_dict(found)
    return [linear, ACTIVATIONS[activation]()]


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if (folder / "model.safetensors").exists():
        return load_file(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").exists():
        return dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
    raise InvalidInput(f"{folder} has no model.safetensors", remedy="copy the model's folder again, with its sub-folders")
