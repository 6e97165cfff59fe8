"""Which parameters learn, and how fast: frozen blocks, rates that fall from block to block, blocks that start anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork_server import InvalidInput

from topwork_plugins.fine_tune.options import FineTuneOptions

if TYPE_CHECKING:
    import torch

#: Of matrices that start anew, as BERT's did (Devlin et al. 2019; `initializer_range`).
SPREAD = 0.02


def block_of_parameters(names: Sequence[str], blocks: Sequence[Sequence[str]]) -> dict[str, int]:
    """The block of each parameter, as `Trunk.blocks` says it; all are in one block where it says nothing."""
    last = max(len(blocks) - 1, 0)
    return {name: next((i for i, block in enumerate(blocks) if name.startswith(tuple(block))), last) for name in names}


def freeze(module: torch.nn.Module, home: Mapping[str, int], reached: Collection[str], count: int, bottom: int) -> list[int]:
    """Lets the parameters learn that the tap is computed from and that no frozen block holds; returns their blocks, ascending.

    `count` is how many blocks there are, `bottom` how many of them are frozen (-1: all). InvalidInput where there are fewer.
    """
    if bottom > count:
        raise InvalidInput(f"frozen_blocks is {bottom}, and the trunk has {count} blocks", remedy=f"give -1 (all) to {count}")
    frozen = count if bottom < 0 else bottom
    learning = set()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in reached and home[name] >= frozen)
        if parameter.requires_grad:
            learning.add(home[name])
    return sorted(learning)


def reinitialise(module: torch.nn.Module, home: Mapping[str, int], learning: Sequence[int], top: int) -> None:
    """Starts the `top` highest of the blocks that learn anew: matrices normal, norms at 1, biases at 0 (Zhang et al. 2021)."""
    import torch

    if not top:
        return
    if any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        raise InvalidInput(
            "reinitialise is for transformers: this trunk has batch norms, whose statistics stay", remedy="leave it 0"
        )
    if top > len(learning):
        raise InvalidInput(f"reinitialise is {top}, and {len(learning)} blocks learn", remedy=f"give at most {len(learning)}")
    chosen = set(learning[-top:])
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and home[name] in chosen:
                _restart(name, parameter)


def _restart(name: str, parameter: torch.nn.Parameter) -> None:
    if parameter.ndim > 1:
        parameter.normal_(0.0, SPREAD)
    else:
        parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def groups(module: torch.nn.Module, home: Mapping[str, int], rate: float, options: FineTuneOptions) -> list[dict[str, Any]]:
    """AdamW's groups of what learns: the top block at `rate`, each below it at `layer_decay` of the one above.

    As the discriminative rates of Howard and Ruder (2018, section 3.2) and of ELECTRA (Clark et al. 2020, appendix B). Norms and
    biases do not decay.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    top = max((home[name] for name in parameters), default=0)
    found: dict[tuple[int, bool], list[Any]] = {}
    for name, parameter in parameters.items():
        found.setdefault((home[name], parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": rate * options.layer_decay ** (top - block),
            "weight_decay": options.weight_decay if decays else 0.0,
        }
        for (block, decays), members in sorted(found.items(), key=lambda entry: entry[0])
    ]


def usual_rate(module: torch.nn.Module) -> float:
    """Nets with batch norms bear more than transformers do."""
    import torch

    return 1e-4 if any(isinstance(p, torch.nn.modules.batchnorm._BatchNorm) for p in module.modules()) else 2e-5
