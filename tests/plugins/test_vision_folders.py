"""Which folders the vision plugin takes for its own, and models that are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny_pictures as tiny
import torch
from safetensors.torch import load_file, save_file
from small_nets import refusal
from topwork_plugins.vision import plugin as vision
from topwork_plugins.vision.plugin import VisionEncoder
from topwork_server import EncoderSpec, Modality, SourceUri
from topwork_server.plugin_api.plugin_registry import PluginRegistry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tiny.random_model("vit"), tmp_path / "model")


def export(folder: Path, **settings: Any) -> Any:
    spec = EncoderSpec("tiny", VisionEncoder, f"file:{folder}", Modality.IMAGE, settings=settings)
    return VisionEncoder.export(spec, folder, folder)


def change(folder: Path, file: str = "config.json", **fields: Any) -> None:
    """Change fields of a JSON file; None takes one away."""
    said = json.loads((folder / file).read_text()) | fields
    (folder / file).write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def test_sources_that_are_adopted(folder: Path, tmp_path: Path) -> None:
    def adopt(uri: str, family: str = "") -> EncoderSpec | None:
        return vision.resolve_source("mine", SourceUri.parse(uri, family))

    found = adopt(f"file:{folder}")
    assert found is not None
    assert (found.name, found.modality) == ("mine", Modality.IMAGE)
    assert adopt(f"file:{folder}", "bert") is None
    assert adopt(f"file:{tmp_path}") is None
    for repository in ("facebook/dinov2-small", "google/vit-base-patch16-224", "microsoft/swinv2-tiny-patch4-window8-256"):
        assert adopt(f"hf:{repository}") is not None
    for repository in ("openai/clip-vit-base-patch32", "bert-base-uncased", "timm/vit_tiny_patch16_224.augreg_in21k"):
        assert adopt(f"hf:{repository}") is None
    assert adopt("hf:someone/their-model", "vision") is not None
    registered = PluginRegistry.load().resolve_source("mine", SourceUri.parse(f"file:{folder}"))
    assert registered is not None
    assert registered.spec.encoder is VisionEncoder
    change(folder, model_type="yolos")
    assert adopt(f"file:{folder}") is None
    assert adopt(f"file:{folder}", "vision") is not None


def test_a_model_of_an_unknown_type_is_named(folder: Path) -> None:
    change(folder, model_type="yolos")
    said = vision.refuse_source(SourceUri.parse(f"file:{folder}"))
    assert said is not None
    assert "'yolos'" in said.reason
    assert "dinov2" in said.remedy
    change(folder, model_type=None)
    assert "no model_type" in refusal(lambda: export(folder))
    (folder / "config.json").write_text("{")
    assert "JSON" in refusal(lambda: export(folder))
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(lambda: export(folder))
    assert vision.refuse_source(SourceUri.parse(f"file:{folder}")) is None


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)
    name = next(key for key in whole if "intermediate" in key and key.endswith("weight"))
    save_file({key: value for key, value in whole.items() if key != name}, path, {"format": "pt"})
    assert "lacks 1 weight of its architecture: " in refusal(lambda: export(folder))
    save_file({**whole, name: whole[name][:3].clone()}, path, {"format": "pt"})
    assert ".weight is (3, 32) and should be (" in refusal(lambda: export(folder))
    path.write_bytes(path.read_bytes()[:1000])
    assert "cut off: it has 1,000 bytes of at least" in refusal(lambda: export(folder))
    path.unlink()
    assert "could not be read" in refusal(lambda: export(folder))


def test_weights_without_a_place_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "decoder.weight": torch.zeros(3, 3)}, path, {"format": "pt"})
    assert export(folder).unused == ("decoder.weight",)
    change(folder, num_hidden_layers=1)
    assert "layers that its config.json does not have" in refusal(lambda: export(folder))


def test_pickles_never_run(folder: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(), protocol=2))
    assert "is a pickle that runs code" in refusal(lambda: export(folder))
    assert not (tmp_path / "ran").exists()


def test_remote_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\nclass Config: pass\n")
    code = {"AutoModel": "code.Net", "AutoConfig": "code.Config"}
    change(folder, auto_map=code)
    [remark] = export(folder).remarks
    assert "code.Net" in remark
    assert "never run: ViTModel of transformers is used" in remark
    change(folder, model_type="mine", auto_map=code)
    assert "computed by code of its own (auto_map in config.json: code.Config, code.Net)" in refusal(lambda: export(folder))
    assert not (tmp_path / "ran").exists()


def test_models_of_texts_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50))
    assert "does not read pictures" in refusal(lambda: export(tiny.write(bert, tmp_path)))


def test_pictures_of_a_size_that_the_model_does_not_read(folder: Path) -> None:
    change(folder, "preprocessor_config.json", size={"height": 96, "width": 96})
    assert export(folder).inputs == {"pictures": ("batch", 3, 96, 96)}  # its position table is interpolated
    change(folder, "preprocessor_config.json", size={"height": 8, "width": 8})
    assert "8 x 8 pixels" in refusal(lambda: export(folder))
    assert "'large'" in refusal(lambda: export(folder, size="large"))
    assert "is 100" in refusal(lambda: export(folder, size=100))


def test_a_folder_that_does_not_say_how_pictures_are_prepared(folder: Path) -> None:
    change(folder, "preprocessor_config.json", image_processor_type=None)
    assert export(folder).inputs == {"pictures": ("batch", 3, 64, 64)}  # as its architecture does it
    (folder / "preprocessor_config.json").unlink()
    assert "how its pictures are prepared" in refusal(lambda: export(folder))
