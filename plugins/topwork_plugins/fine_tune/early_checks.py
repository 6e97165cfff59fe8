"""Checks of fine-tuning that need neither torch nor the items, so that a request is refused and not its job."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from topwork_server import EncoderSpec, InvalidInput, Modality, TrainingPlan

from topwork_plugins.cuda_device import check_device
from topwork_plugins.fine_tune.options import TrunkOptions

AUTO = "auto"


def check_options(plan: TrainingPlan, options: TrunkOptions) -> None:
    """Raise InvalidInput for a device that is not there, and for options that do not suit the encoder or its layers."""
    check_device(options.device, options.precision)
    if plan.encoder is None:
        return
    if plan.encoder.source.startswith("onnx:"):
        raise ready_graph(plan.encoder)
    if plan.blocks:
        check_frozen(options.frozen_blocks, plan.blocks)
    for _, pooling in plan.views:
        check_data_options(plan.encoder, pooling, options)
    if options.adapter != "none" and options.target_modules != AUTO and plan.artifact:
        check_targets(options.target_modules, _names_in(plan.artifact / "model.onnx"))


def check_frozen(frozen: int, blocks: int) -> None:
    """Raise InvalidInput for more frozen blocks than there are."""
    if frozen > blocks:
        raise InvalidInput(
            f"frozen_blocks is {frozen}, and the trunk has {blocks} block{'s' * (blocks != 1)}",
            remedy=f"give -1 (all) to {blocks}",
        )


def ready_graph(encoder: EncoderSpec) -> InvalidInput:
    """The error of an encoder that came as a graph."""
    return InvalidInput(f"{encoder.name} is a ready graph and cannot be fine-tuned", remedy="train a head on its features")


def check_data_options(encoder: EncoderSpec, pooling: str, options: TrunkOptions) -> None:
    """Raise InvalidInput for options of pictures or of windows where there are none."""
    if options.flip and (encoder.modality is not Modality.IMAGE or pooling == "rows"):
        raise InvalidInput("flip mirrors whole pictures, whose values do not depend on left and right", remedy="leave it off")
    if options.windows != TrunkOptions.windows and encoder.modality not in (Modality.VIDEO, Modality.AUDIO):
        raise InvalidInput(
            f"windows are of videos and recordings, and {encoder.name} reads {encoder.modality}s", remedy="leave it out"
        )


def check_targets(asked: str, names: Collection[str]) -> None:
    """Raise InvalidInput where no name of the trunk's graph ends as a layer that is asked for. Which of them can have an adapter
    is known in the job."""
    for end in (one.strip() for one in asked.split(",")):
        if names and not any(end and f".{name}".endswith(f".{end}") for name in names):
            raise InvalidInput(
                f"target_modules names {end!r}, and no layer of the network ends so",
                remedy="name layers by the ends of their names, or leave it 'auto'",
            )


def _names_in(graph: Path) -> set[str]:
    """The modules that a graph's weights and nodes tell of: an exporter writes the one or the other."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    weights = {tensor.name.rpartition(".")[0] for tensor in model.graph.initializer}
    return (weights | {_scope(node.name) for node in model.graph.node}) - {""}


def _scope(node: str) -> str:
    """The module of a node: of /net/layer1/layer1.0/conv/Conv, as a Sequential is written, net.layer1.0.conv."""
    parts = node.strip("/").split("/")[:-1]
    return ".".join(part for part, inner in zip(parts, [*parts[1:], ""], strict=False) if not inner.startswith(f"{part}."))
