"""Which sources the resnet plugin takes for its own, and weights that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from small_nets import as_on_the_hub, random_net, refusal
from topwork_plugins.resnet import plugin as resnet
from topwork_plugins.resnet.plugin import ResNetEncoder
from topwork_plugins.resnet.timm_nets import load_in_order, load_timm
from topwork_server import EncoderSpec, SourceUri


def test_sources_that_are_adopted(tmp_path: Path) -> None:
    def adopt(uri: str, family: str = "") -> EncoderSpec | None:
        return resnet.resolve_source("mine", SourceUri.parse(uri, family))

    folder = as_on_the_hub(random_net("test_resnet"), tmp_path / "net")
    adopted = adopt(f"file:{folder}")
    assert adopted is not None
    assert (adopted.name, adopted.source, adopted.license) == ("mine", f"file:{folder}", "mit")
    assert adopt("timm:resnet34.a1_in1k") is not None
    assert adopt("hf:timm/resnet34.a1_in1k") is not None
    assert adopt("hf:someone/their-resnet", "resnet") is not None
    assert adopt("hf:bert-base-uncased") is None
    assert adopt("timm:resnet34.a1_in1k", "bert") is None
    assert adopt(f"file:{tmp_path}") is None
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert adopt(f"file:{tmp_path}") is None


def test_folders_that_hold_no_net_are_refused(tmp_path: Path) -> None:
    folder = as_on_the_hub(random_net("test_resnet"), tmp_path)
    config, weights = folder / "config.json", folder / "model.safetensors"
    written = config.read_text()
    config.write_text(written.replace("test_resnet", "resnet_of_nobody"))
    assert "resnet_of_nobody" in refusal(lambda: load_timm(folder))
    for other in ("test_vit", "resnet10t"):
        config.write_text(written.replace("test_resnet", other))
        assert "that its architecture has no place for" in refusal(lambda: load_timm(folder))
    config.write_text(written.replace("1000", "10"))
    assert "is (1000,) and should be (10,)" in refusal(lambda: load_timm(folder))
    config.write_text(written)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cut off: it has 1,000 bytes" in refusal(lambda: load_timm(folder))
    weights.unlink()
    assert "holds none of" in refusal(lambda: load_timm(folder))
    config.write_text("{}")
    assert "names no architecture" in refusal(lambda: load_timm(folder))
    config.unlink()
    assert "config.json" in refusal(lambda: load_timm(folder))


def test_plain_state_dicts_load_and_pickles_never_run(tmp_path: Path) -> None:
    net = random_net("test_resnet")
    folder = as_on_the_hub(net, tmp_path / "net")
    (folder / "model.safetensors").unlink()
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    loaded, _ = load_timm(folder)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(str(tmp_path / "ran")), protocol=2))
    assert "is a pickle that runs code" in refusal(lambda: load_timm(folder))
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], folder / "pytorch_model.bin")
    assert "named tensors" in refusal(lambda: load_timm(folder))


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_tensors_map_in_order_or_not_at_all(tmp_path: Path) -> None:
    net = random_net("test_resnet")
    theirs = {f"their.{i}": t for i, t in enumerate(net.state_dict().values()) if t.ndim}
    torch.save(theirs, tmp_path / "net.pth")
    loaded = load_in_order("test_resnet", tmp_path / "net.pth")
    pictures = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures), net(pictures))
    first, *_, last = theirs
    torch.save({**theirs, first: theirs[first][:1]}, tmp_path / "shape.pth")
    assert f"{first} of shape.pth is (1, " in refusal(lambda: load_in_order("test_resnet", tmp_path / "shape.pth"))
    del theirs[last]
    torch.save(theirs, tmp_path / "count.pth")
    assert f"has {len(theirs)} tensors" in refusal(lambda: load_in_order("test_resnet", tmp_path / "count.pth"))


def test_a_state_dict_without_its_architecture_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    spec = resnet.resolve_source("mine", SourceUri.parse(f"file:{tmp_path}/net.pth", "resnet"))
    assert spec is not None
    assert "which net" in refusal(lambda: ResNetEncoder.export(spec, tmp_path / "net.pth", tmp_path))
