"""Picture models of transformers with their taps. Imports torch: only code that exports imports this module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from topwork_server import InvalidInput, PretrainedHead
from torch import Tensor, nn

from topwork_plugins.parameter_blocks import by_prefix
from topwork_plugins.vision.layout import Layout
from topwork_plugins.vision.loading import linear_of, load
from topwork_plugins.vision.pretrained_head import gives_scores, head_of
from topwork_plugins.vision.tapped import Outputs, Tapped
from topwork_plugins.vision.taps import PATCHES, map_names

#: What `pooled` may be, the best first: the model's own pooler, its class token, the mean over its patches or cells, and the
#: last two side by side, which the classifiers of DINOv2 read.
Pooling = Literal["pooler", "cls", "mean", "cls+mean"]
POOLINGS: tuple[Pooling, ...] = ("pooler", "cls", "mean", "cls+mean")
#: Cells of these sizes in pixels are looked for where a model gives tokens and names no size of its patches.
STRIDES = (4, 8, 16, 32, 64)
#: No model has more class, distillation and register tokens.
MOST_BEFORE = 16
#: Their stages return what they give before and after it is made smaller, and the model lists the latter.
TWO_OUTPUTS = frozenset({"focalnet", "swinv2"})


class TappedTransformers(Tapped):
    """A module with the taps of any picture model of transformers, for pictures of `size` (height, width).

    Maps are its hidden states (`map_names` says which), without the tokens that stand before the patches; `pooling` is what
    `pooled` is. A Masked Autoencoder masks nothing.
    """

    def __init__(self, net: Any, size: tuple[int, int]) -> None:
        super().__init__(net, {PATCHES: "the model's last norm"})
        self.size = size
        self.kind = str(net.config.model_type)
        if self.kind == "vit_mae":
            net.config.mask_ratio = 0.0
        self.arguments = _arguments(net, self.kind, size)
        self._stages: list[Tensor] = []
        for part in net.modules():
            if hasattr(part, "interpolate_pos_encoding"):
                part.interpolate_pos_encoding = _untraced(part.interpolate_pos_encoding)
        if self.kind in TWO_OUTPUTS:
            for stage in _layers(net)[1]:
                stage.register_forward_hook(lambda _, __, found: self._stages.append(found[1]))
        with torch.no_grad():
            found = self._run(torch.zeros(1, 3, *size))
        self.places_of_maps = self._name_maps(found)
        self.pooling = next(name for name in POOLINGS if name in self._candidates(found))

    def outputs(self, pictures: Tensor) -> Outputs:
        found = self._run(pictures)
        rows, maps = {"pooled": self._candidates(found)[self.pooling]}, self._maps(found)
        patches = self._as_map(found.last_hidden_state) if "block.1" in maps else None
        if patches is None:
            return Outputs(rows, maps)
        if self._before(found.last_hidden_state):
            rows["cls"] = found.last_hidden_state[:, 0]
        return Outputs(rows, maps | {PATCHES: patches})

    def candidates(self, pictures: Tensor) -> Mapping[Pooling, Tensor]:
        """Compute what `pooled` may be, (batch, dim) each."""
        return self._candidates(self._run(pictures))

    def _run(self, pictures: Tensor) -> Any:
        self._stages.clear()
        arguments = self.arguments
        if self.kind == "vit_mae":  # noise that rises keeps all patches in their order
            net: Any = self.net
            noise = torch.arange((self.size[0] // net.config.patch_size) * (self.size[1] // net.config.patch_size)) * 1.0
            arguments = {**arguments, "noise": noise.expand(pictures.shape[0], -1)}
        return self.net(pixel_values=pictures, output_hidden_states=True, return_dict=True, **arguments)

    def _candidates(self, found: Any) -> Mapping[Pooling, Tensor]:
        last, pooler = found.last_hidden_state, found.get("pooler_output")
        before = self._before(last)
        mean = last.mean((2, 3)) if last.ndim == 4 else last[:, before or 0 :].mean(1)
        made: dict[Pooling, Tensor] = {} if pooler is None else {"pooler": pooler.flatten(1)}
        if before:
            made |= {"cls": last[:, 0], "cls+mean": torch.cat([last[:, 0], mean], dim=1)}
        return made | {"mean": mean}

    def _states(self, found: Any) -> list[Tensor]:
        states = list(self._stages or found.get("reshaped_hidden_states") or found.get("hidden_states") or ())
        return [state.permute(0, 3, 1, 2) for state in states] if self.kind == "hiera" else states

    def _name_maps(self, found: Any) -> dict[str, int]:
        """Name the hidden states that are maps, each with its place among them; none where one is not."""
        states = self._states(found)
        maps = [m for m in map(self._as_map, states) if m is not None]
        if len(maps) < len(states):
            return {}
        first = 1 if len({state.shape for state in states}) == 1 else 0  # the embeddings, before any block
        names = map_names([round(self.size[0] / m.shape[2]) for m in maps[first:]])
        return {name: first + place for name, place in names.items()}

    def _maps(self, found: Any) -> dict[str, Tensor]:
        maps = [self._as_map(state) for state in self._states(found)]
        return {name: m for name, place in self.places_of_maps.items() if (m := maps[place]) is not None}

    def _as_map(self, state: Tensor) -> Tensor | None:
        if state.ndim == 4:
            return state
        grid = self._grid(int(state.shape[1])) if state.ndim == 3 else None
        return None if grid is None else state[:, -grid[0] * grid[1] :].transpose(1, 2).reshape(-1, state.shape[2], *grid)

    def _before(self, tokens: Tensor) -> int | None:
        """Count the tokens that stand before the patches; None where these are no tokens of patches."""
        grid = self._grid(int(tokens.shape[1])) if tokens.ndim == 3 else None
        return None if grid is None else int(tokens.shape[1]) - grid[0] * grid[1]

    def _grid(self, tokens: int) -> tuple[int, int] | None:
        """Rows and columns of so many tokens, the last of which are patches."""
        patch = getattr(self.net.config, "patch_size", None)
        grids = [(self.size[0] // s, self.size[1] // s) for s in ((patch,) if isinstance(patch, int) else ()) + STRIDES]
        fitting = [(tokens - rows * columns, (rows, columns)) for rows, columns in grids if 0 < rows * columns <= tokens]
        return next((grid for before, grid in sorted(fitting) if before <= MOST_BEFORE), None)

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        """Group the parameters: those before the layers or stages, those of each, and with the last those behind."""
        places, layers = _layers(self.net)
        names = [name for name, _ in self.net.named_parameters()]
        each = [tuple(f"{place}.{n}." for place in places) for n in range(len(layers))]
        inside = [[name for name in names if name.startswith(prefixes)] for prefixes in each]
        if not layers or not all(inside):
            return ()
        begin, all_inside = names.index(inside[0][0]), {name for group in inside for name in group}
        after = [name for name in names[begin:] if name not in all_inside]
        return by_prefix([group for group in (names[:begin], *inside[:-1], inside[-1] + after) if group])

    @property
    def exporter(self) -> Literal["dynamo", "legacy"]:
        return "legacy"


def _layers(net: nn.Module) -> tuple[Sequence[str], Sequence[nn.Module]]:
    """The outermost list of two modules or more: the layers of a transformer, the stages of other nets.

    Where a net keeps the parts of its stages in several lists side by side: the names of all of them, the modules of the first.
    """
    lists = [(name, part) for name, part in net.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    first, found = min(lists, key=lambda pair: pair[0].count("."), default=("", nn.ModuleList()))
    parent = first.rpartition(".")[0]
    return [name for name, part in lists if name.rpartition(".")[0] == parent and len(part) == len(found)], list(found)


def _untraced(interpolate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make the result of `interpolate` a constant of the traced graph: a position table at another size depends on no picture,
    and there is no ONNX operator for some of the ways to interpolate it."""

    tracing: Any = torch._C

    def interpolated(*given: Any) -> Tensor:
        state = tracing._get_tracing_state()
        tracing._set_tracing_state(None)
        try:
            return interpolate(*(int(v) if isinstance(v, Tensor) and not v.ndim else v for v in given))
        finally:
            tracing._set_tracing_state(state)

    return interpolated


def _arguments(net: Any, kind: str, size: tuple[int, int]) -> dict[str, Any]:
    """Choose what `forward` is given beside the pictures."""
    arguments: dict[str, Any] = {"output_hidden_states_before_downsampling": True} if kind == "swin" else {}
    made_for = getattr(net.config, "image_size", size)
    made_for = (made_for, made_for) if isinstance(made_for, int) else tuple(made_for)
    if made_for != size and "interpolate_pos_encoding" in inspect.signature(net.forward).parameters:
        arguments["interpolate_pos_encoding"] = True
    return arguments


def tapped_model(net: Any, size: tuple[int, int]) -> TappedTransformers:
    """Give a model its taps. InvalidInput where it gives no features of a picture of this size."""
    try:
        return TappedTransformers(net, size)
    except (AssertionError, AttributeError, IndexError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"{type(net).__name__} of transformers gives no features of a picture of {size[0]} x {size[1]} pixels: {reason}",
            remedy="name a picture model, and a size that it reads",
        ) from error


def pooling_of(tapped: TappedTransformers, model: Any, layer: nn.Linear) -> Pooling | None:
    """Find what a model's classifier reads, by its scores of two pictures; None where it reads something else."""
    pictures = torch.rand(2, 3, *tapped.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model(pixel_values=pictures, **tapped.arguments).logits
        rows = tapped.candidates(pictures)
        return next((name for name in rows if gives_scores(layer, rows[name], scores)), None)


@dataclass(frozen=True)
class Model:
    """A model with its taps, its classifier apart. `unused` are the weights of the folder that neither has."""

    tapped: TappedTransformers
    heads: tuple[PretrainedHead, ...]
    unused: tuple[str, ...]


def open_model(layout: Layout, size: tuple[int, int]) -> Model:
    """Open the model of a folder for pictures of `size` (height, width).

    `pooled` is what its classifier reads, where it has one that is one linear layer; that is its head where its classes have
    names.
    """
    loaded = load(layout)
    tapped = tapped_model(loaded.trunk, size)
    layer = linear_of(loaded)
    reads = pooling_of(tapped, loaded.model, layer) if layer is not None else None
    heads: tuple[PretrainedHead, ...] = ()
    if layer is not None and reads is not None:
        tapped.pooling = reads
        heads = head_of(layer, layout.labels)
    return Model(tapped, heads, loaded.unused if heads else tuple(sorted((*loaded.unused, *loaded.classifier))))
