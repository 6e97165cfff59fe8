"""Audio models of transformers with all their taps. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from topwork_server import Granularity, InvalidInput, Tap
from torch import Tensor, nn
from torch.nn.utils import parametrize

from topwork_plugins.audio.layout import AST, EXTRACTORS, WHISPER, Layout
from topwork_plugins.parameter_blocks import by_prefix, under
from topwork_plugins.pretrained_models import from_pretrained, refuse_gaps, without_place

#: Weights of how a model learns, which folders may lack.
SPARE = r"masked_spec_embed$"


class TappedAudio(nn.Module):
    """A module with the taps of an audio model: means over the frames in which there is sound."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return (batch, dim) tensors, one for each of `names`."""
        found = self.net(inputs[0], output_hidden_states=True, return_dict=True)
        states = [self.mean(state, *inputs[1:]) for state in found.hidden_states]
        return (*self.rows(found, *inputs[1:]), *states)

    def rows(self, found: Any, *frames: Tensor) -> tuple[Tensor, ...]:
        return (self.mean(found.last_hidden_state, *frames),)

    def mean(self, states: Tensor, *frames: Tensor) -> Tensor:
        """Average (batch, positions, dim) over the first `frames` of each item, or over all."""
        if not frames:
            return states.mean(1)
        inside = (torch.arange(states.shape[1], device=states.device) < frames[0][:, None]).to(states.dtype)
        return (states * inside[:, :, None]).sum(1) / inside.sum(1)[:, None]

    @property
    def names(self) -> Sequence[tuple[str, str]]:
        """The taps before those of the layers, with what they are."""
        return (("pooled", "the mean over the frames after the last layer"),)

    def taps(self, dims: Sequence[int]) -> tuple[Tap, ...]:
        layers = [(f"hidden.{n}", "the embeddings" if not n else f"layer {n}") for n in range(len(dims) - len(self.names))]
        named = [*self.names, *((name, f"the mean over the frames after {what}") for name, what in layers)]
        return tuple(Tap(name, dim, Granularity.WINDOW, description=what) for (name, what), dim in zip(named, dims, strict=True))

    @property
    def layers(self) -> str:
        """The name of the list of layers in the net."""
        return "layers" if hasattr(self.net, "layers") else "encoder.layers"

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Group the parameters: those before the layers, those of each, and with the last those behind."""
        names = [name for name, _ in self.net.named_parameters()]
        each = [
            [n for n in names if n.startswith(f"{self.layers}.{i}.")] for i in range(len(self.net.get_submodule(self.layers)))
        ]
        inside = {name for group in each for name in group}
        begin = names.index(each[0][0])
        after = [name for name in names[begin:] if name not in inside]
        return under("net.", by_prefix([names[:begin], *each[:-1], each[-1] + after]))


class TappedSpectrogram(TappedAudio):
    """An Audio Spectrogram Transformer: class tokens, then the patches, those of one frequency after another."""

    @property
    def names(self) -> Sequence[tuple[str, str]]:
        return (
            ("pooled", "the mean of the class token and the distillation token after the last norm, which classifiers read"),
            ("cls", "the class token after the last norm"),
        )

    def rows(self, found: Any, *frames: Tensor) -> tuple[Tensor, ...]:
        return found.pooler_output, found.last_hidden_state[:, 0]

    def mean(self, states: Tensor, *frames: Tensor) -> Tensor:
        """Average over the patches that begin within the sound."""
        low, _ = self.net.embeddings.get_shape(self.net.config)
        by_time = states[:, 2:].reshape(states.shape[0], low, -1, states.shape[2]).mean(1)
        return super().mean(by_time, *frames)


def open_model(layout: Layout) -> tuple[TappedAudio, tuple[str, ...]]:
    """Open the model of a folder, and name the weights of the folder that it has no place for. InvalidInput where a weight is
    missing or does not fit; nothing is unpickled."""
    model, report = from_pretrained(layout.folder, "AutoModel")
    refuse_gaps(layout.folder, report, SPARE)
    unused = without_place(layout.folder, model, report)
    extractor, net = EXTRACTORS[layout.kind], model
    if extractor == WHISPER:
        net = model.encoder
        unused += [name for name, _ in model.named_parameters() if name.startswith("decoder.")]
    _quiet(net)
    tapped = TappedSpectrogram(net) if extractor == AST else TappedAudio(net)
    return tapped.eval(), tuple(sorted(unused))


def _quiet(net: Any) -> None:
    """Make the net what it is when it serves, while it is trained too: every layer runs, and nothing is masked. Weights that are
    kept as a length and a direction become one."""
    net.config.apply_spec_augment, net.config.layerdrop, net.config.encoder_layerdrop = False, 0.0, 0.0
    if hasattr(net, "layerdrop"):
        net.layerdrop = 0.0
    for part in list(net.modules()):
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")


def dims_of(tapped: TappedAudio, inputs: Sequence[Tensor], folder: str) -> list[int]:
    """Run the model once, and return the width of each tap."""
    try:
        with torch.no_grad():
            return [int(rows.shape[1]) for rows in tapped(*inputs)]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{folder} gives no features of sound: {reason}", remedy="copy the model again") from error
