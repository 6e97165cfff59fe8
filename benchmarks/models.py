"""Exported encoders in process, large ones with random weights, and batches as a server makes them that sees all samples."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from topwork_server.config import default_home
from topwork_server.models.artifacts import PARITY_INPUTS
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.plugin_api.encoder import Encoder, batch_key
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.types import EncoderSpec, Modality, Sample

#: Of BERT's vocabulary.
WORDS = 30_522


def catalog(home: Path | None = None) -> Catalog:
    return Catalog(PluginRegistry.load(), home or default_home())


def opened(name: str) -> tuple[CatalogEntry, Path, Encoder]:
    """An encoder of $TOPWORK_HOME, the folder of its export, and what prepares its items. Ends the program where it has none."""
    entry = catalog().entry(name)
    if entry.folder is None:
        sys.exit(f"{name} is not exported in {default_home()}: run `make weights` or set TOPWORK_HOME")
    return entry, entry.folder, entry.spec.encoder(entry.spec, entry.folder)


def batches_by_length(encoder: Encoder, samples: Sequence[Sample], budget: float) -> list[list[Sample]]:
    """Batches of nearest length, cut where the next sample would pass the budget."""
    groups: dict[Hashable, list[Sample]] = {}
    if encoder.pads:  # at a million words a second a key for each would count
        groups[None] = list(samples)
    else:
        for sample in samples:
            groups.setdefault(batch_key(encoder, sample), []).append(sample)
    return [batch for group in groups.values() for batch in _cut(encoder, group, budget)]


def _cut(encoder: Encoder, samples: Sequence[Sample], budget: float) -> list[list[Sample]]:
    batches: list[list[Sample]] = [[]]
    for sample in sorted(samples, key=encoder.cost):
        if batches[-1] and (len(batches[-1]) + 1) * encoder.cost(sample) > budget:
            batches.append([])
        batches[-1].append(sample)
    return batches


def random_encoder(home: Path, name: str) -> tuple[EncoderSpec, Path]:
    """A large network with random weights, for speed alone, and the folder of its export: once a home, in this process."""
    import torch
    from topwork_server.models import torch_compat

    torch_compat.prepare_torchvision()
    from topwork_server.runtime.export import export_encoder

    torch.manual_seed(0)
    folder = home / name
    home.mkdir(parents=True, exist_ok=True)
    spec = RANDOM[name](home / f"{name}-weights")
    if not (folder / PARITY_INPUTS).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        export_encoder(spec, weights_of(spec), folder)
    return spec, folder


def weights_of(spec: EncoderSpec) -> Path:
    """Return the weights of a random encoder: a file or folder."""
    return Path(spec.source.removeprefix("file:"))


def _resnet50(weights: Path) -> EncoderSpec:
    import timm
    from safetensors.torch import save_file
    from topwork_plugins.resnet.plugin import ResNetEncoder

    weights.mkdir(exist_ok=True)
    save_file(timm.create_model("resnet50", zero_init_last=False).state_dict(), weights / "model.safetensors")
    (weights / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 1000}))
    return EncoderSpec("resnet50-random", ResNetEncoder, f"file:{weights}", Modality.IMAGE)


def _i3d(weights: Path) -> EncoderSpec:
    from safetensors.torch import save_file
    from topwork_plugins.i3d.inception import InceptionI3d
    from topwork_plugins.i3d.plugin import InceptionEncoder

    net = InceptionI3d()
    _randomize_norms(net)
    weights = weights.with_suffix(".safetensors")
    save_file(net.state_dict(), weights)
    return EncoderSpec("i3d-random", InceptionEncoder, f"file:{weights}", Modality.VIDEO)


def _bert_base(weights: Path) -> EncoderSpec:
    """A folder as transformers writes it, with a vocabulary of made-up words."""
    from topwork_plugins.bert.plugin import BertEncoder
    from transformers import BertConfig, BertModel, BertTokenizer

    BertModel(BertConfig(vocab_size=WORDS), add_pooling_layer=False).save_pretrained(weights)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *".,-", *(f"##{letter}" for letter in letters)]
    vocabulary += [f"word{i}" for i in range(WORDS - len(vocabulary))]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(weights)
    return EncoderSpec("bert-base-random", BertEncoder, f"file:{weights}", Modality.TEXT)


def _randomize_norms(net: Any) -> None:
    """Batch norms that let a signal through all layers; at the usual start it fades to nothing."""
    from torch import nn

    for part in net.modules():
        if isinstance(part, nn.BatchNorm3d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.1, 0.5)


#: What writes the weights under the given name.
RANDOM: dict[str, Callable[[Path], EncoderSpec]] = {"resnet50": _resnet50, "i3d": _i3d, "bert-base": _bert_base}
