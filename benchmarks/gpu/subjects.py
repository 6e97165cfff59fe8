"""ResNet-50, BERT-base and Inception-v1 I3D with random weights: their graphs as Topwork writes them, and the same nets in torch.

Speed does not depend on weights, and nothing need be downloaded. Graphs come from the legacy exporter for all three: it needs no
package beside torch.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from topwork_server.models import torch_compat
from topwork_server.models.artifacts import DEFAULT, MODEL, PARITY_INPUTS
from topwork_server.models.onnx_graph import extract_subgraph
from topwork_server.plugin_api.encoder import Encoder, Trunk
from topwork_server.runtime.parity import example_batches, export_arguments, save_inputs
from topwork_server.types import Array, EncoderSpec, Modality

WORDS = 30_522
LAYERS, HIDDEN = 12, 768
FRAMES = 16


@dataclass(frozen=True)
class Subject:
    """`feeds(rows, length)` is a batch of random inputs (length: tokens, or frames); `net` takes them in their order as tensors,
    in fp16 where they are floats, and returns the default tap."""

    name: str
    encoder: Encoder
    folder: Path
    feeds: Callable[[int, int], dict[str, Array]]
    net: Callable[[], Any]

    @property
    def tap(self) -> str:
        return self.encoder.spec.default_tap

    @property
    def graph(self) -> Path:
        """The way to the default tap."""
        alone = self.folder / DEFAULT
        return alone if alone.exists() else self.folder / MODEL


def resnet50(home: Path) -> Subject:
    _seed()
    import timm
    from safetensors.torch import save_file
    from topwork_plugins.resnet.plugin import ResNetEncoder

    net = timm.create_model("resnet50", pretrained=False, zero_init_last=False).eval()
    weights = _folder(home / "resnet50-weights")
    save_file(net.state_dict(), weights / "model.safetensors")
    (weights / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 1000}))
    net.reset_classifier(0)
    return _subject("resnet50", ResNetEncoder, Modality.IMAGE, weights, home, _pictures, lambda: net)


def bert_base(home: Path) -> Subject:
    _seed()
    from topwork_plugins.bert.plugin import BertEncoder
    from transformers import BertConfig, BertModel, BertTokenizer

    weights = _folder(home / "bert-weights")
    BertModel(BertConfig(vocab_size=WORDS), add_pooling_layer=False).save_pretrained(weights)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,-"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary += [f"word{i}" for i in range(WORDS - len(vocabulary))]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(weights)

    def net() -> Any:
        import torch

        whole = BertModel.from_pretrained(weights, attn_implementation="sdpa", add_pooling_layer=False).eval()

        class Mean(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bert = whole

            def forward(self, ids: Any, mask: Any, *types: Any) -> Any:
                tokens = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = (mask / mask.sum(1, keepdim=True)).to(tokens.dtype)
                return (weights.unsqueeze(1) @ tokens).squeeze(1)

        return Mean()

    return _subject("bert-base", BertEncoder, Modality.TEXT, weights, home, _texts, net)


def i3d(home: Path) -> Subject:
    _seed()
    import torch
    from safetensors.torch import save_file
    from topwork_plugins.i3d.inception import InceptionI3d
    from topwork_plugins.i3d.plugin import InceptionEncoder

    whole = InceptionI3d()
    with torch.no_grad():  # a pass in training gives the batch norms their statistics: else the signal vanishes on its way
        for part in whole.modules():
            if isinstance(part, torch.nn.BatchNorm3d):
                part.momentum = 1.0
        whole.train()(torch.randn(2, 3, FRAMES, 224, 224))
    whole.eval()
    weights = home / "i3d.safetensors"
    save_file(whole.state_dict(), weights)
    names = [tap.name for tap in whole.taps()]

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, clips: Any) -> Any:
            return self.whole(clips)[names.index("pooled")]

    return _subject("i3d", InceptionEncoder, Modality.VIDEO, weights, home, _clips, Pooled)


SUBJECTS: Mapping[str, Callable[[Path], Subject]] = {"resnet50": resnet50, "bert-base": bert_base, "i3d": i3d}


def _seed() -> None:
    torch_compat.prepare_torchvision()
    import torch

    torch.manual_seed(0)


def _subject(
    name: str,
    encoder: type[Encoder],
    modality: Modality,
    weights: Path,
    home: Path,
    feeds: Callable[[int, int], dict[str, Array]],
    net: Callable[[], Any],
) -> Subject:
    spec = EncoderSpec(name, encoder, f"file:{weights}", modality)
    folder = _folder(home / name)
    trunk = encoder.export(spec, weights, folder)
    made = encoder(spec, folder)
    batches = example_batches(made, trunk.examples or encoder.examples(spec))
    if not (folder / PARITY_INPUTS).exists():  # of an earlier run
        _write(trunk, export_arguments(made, batches), folder / MODEL)
        extract_subgraph(folder / MODEL, spec.default_tap, folder / DEFAULT)
        save_inputs(batches, folder / PARITY_INPUTS)
    return Subject(name, made, folder, feeds, net)


def _write(trunk: Trunk, arguments: Mapping[str, Array], path: Path) -> None:
    import torch

    assert trunk.module is not None
    axes = {name: {i: a for i, a in enumerate(dims) if isinstance(a, str)} for name, dims in trunk.inputs.items()}
    axes |= {tap.name: {0: "batch"} | ({1: "rows"} if tap.granularity == "token" else {}) for tap in trunk.taps}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            trunk.module.eval(),
            tuple(torch.from_numpy(arguments[name]) for name in trunk.inputs),
            str(path),
            dynamo=False,
            opset_version=18,
            dynamic_axes=axes,
            input_names=list(trunk.inputs),
            output_names=[tap.name for tap in trunk.taps],
        )


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _pictures(rows: int, length: int) -> dict[str, Array]:
    return {"pictures": np.random.default_rng(0).standard_normal((rows, 3, 224, 224), dtype=np.float32)}


def _clips(rows: int, length: int) -> dict[str, Array]:
    return {"clips": np.random.default_rng(0).standard_normal((rows, 3, length, 224, 224), dtype=np.float32)}


def _texts(rows: int, length: int) -> dict[str, Array]:
    ids = np.random.default_rng(0).integers(1000, WORDS, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def mixed_lengths(count: int) -> Array:
    """Log-normal, median 20 tokens, at most 128: what sentences look like."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(20), 0.8, count), 4, 128).astype(int)


def flops_a_token(length: int) -> float:
    """Of BERT-base's layers: projections and the feed-forward net, and attention over `length` tokens."""
    return LAYERS * (24.0 * HIDDEN * HIDDEN + 4.0 * length * HIDDEN)
