"""The classifiers that picture nets bring. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from topwork_server import PretrainedHead, prepare_torchvision
from torch import Tensor, nn

IMAGENET_CLASSES = 1000
#: How far a classifier on the features that it may read may be from the net's own scores, relative to the largest.
TOLERANCE = 1e-4


def classifier_of(net: Any, config: Mapping[str, Any], size: tuple[int, int]) -> tuple[PretrainedHead, ...]:
    """A timm net's classifier, where it is one linear layer on the pooled features and its classes have names."""
    layer = net.get_classifier() if hasattr(net, "get_classifier") else None
    if not isinstance(layer, nn.Linear) or not _reads_pooled(net, layer, size):
        return ()
    return head_of(layer, config.get("label_names") or ())


def head_of(layer: nn.Linear, listed: Sequence[str]) -> tuple[PretrainedHead, ...]:
    """A linear layer on the pooled features, with the names of its classes that the net's own configuration lists; none where
    they are not known."""
    names = class_names(listed, layer.out_features)
    if not names:
        return ()
    weight = layer.weight.detach().numpy().copy()
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
    name = "classes" if listed and not _is_imagenet(listed) else "imagenet"
    return (
        PretrainedHead(
            name, "pooled", names, weight, bias.numpy().copy(), description=f"the {len(names)} classes of its training"
        ),
    )


def class_names(listed: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the names of `count` classes that are listed, or ImageNet-1k's of 1000; none where they are not known."""
    if listed and len(listed) == count:
        return _distinct([str(name) for name in listed], [str(i) for i in range(count)])
    return imagenet_names() if count == IMAGENET_CLASSES and not listed else ()


def _is_imagenet(listed: Sequence[str]) -> bool:
    """Tell whether these are the classes of ImageNet-1k, as folders of transformers list them."""
    return len(listed) == IMAGENET_CLASSES and str(listed[0]).startswith("tench")


def imagenet_names() -> tuple[str, ...]:
    """List the classes of ImageNet-1k as WordNet names them; a name of two classes has its synset: "crane (n02012849)"."""
    prepare_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    places = range(IMAGENET_CLASSES)
    return _distinct([info.index_to_description(i) for i in places], [info.index_to_label_name(i) for i in places])


def _distinct(names: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True))


def _reads_pooled(net: Any, layer: nn.Linear, size: tuple[int, int]) -> bool:
    """Tell whether the head reads `pooled`: some nets have more between the pooled features and their scores."""
    pictures = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = net.forward_features(pictures)
        return gives_scores(layer, net.forward_head(last, pre_logits=True), net.forward_head(last))


def gives_scores(layer: nn.Linear, rows: Tensor, scores: Tensor) -> bool:
    """Tell whether these are the scores that the layer gives of the rows."""
    if rows.shape[1:] != (layer.in_features,):
        return False
    return bool((layer(rows) - scores).abs().max() <= TOLERANCE * scores.abs().max())
