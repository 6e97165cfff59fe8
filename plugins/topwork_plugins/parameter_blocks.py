"""Names of a net's parameters, grouped into the blocks of `Trunk.blocks`."""

from __future__ import annotations

from collections.abc import Sequence


def by_prefix(groups: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups of parameters' full names as the shortest prefixes that end with a dot and name nothing of another group.

    [["conv1.weight"], ["layer1.0.weight", "layer1.1.weight"]] -> (("conv1.",), ("layer1.",)). A parameter that shares all its
    prefixes with another group keeps its full name.
    """
    return tuple(
        tuple(dict.fromkeys(_prefix(name, [other for rest in groups if rest is not group for other in rest]) for name in group))
        for group in groups
    )


def under(prefix: str, blocks: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The blocks of a net that is a part of another."""
    return tuple(tuple(prefix + name for name in block) for block in blocks)


def _prefix(name: str, others: Sequence[str]) -> str:
    parts = name.split(".")
    candidates = (".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
    return next((p for p in candidates if not any(other.startswith(p) for other in others)), name)
