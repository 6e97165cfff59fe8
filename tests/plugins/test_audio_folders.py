"""Which folders the audio plugin takes for its own, and models that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_sounds as tiny
import torch
from safetensors.torch import load_file, save_file
from small_nets import refusal
from topwork_plugins.audio import plugin as audio
from topwork_plugins.audio.plugin import AudioEncoder
from topwork_server import EncoderSpec, Modality, SourceUri
from topwork_server.plugin_api.plugin_registry import PluginRegistry

SAYS = "preprocessor_config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tiny.random_model("wav2vec2"), "wav2vec2", tmp_path / "model")


def export(folder: Path) -> Any:
    return AudioEncoder.export(EncoderSpec("tiny", AudioEncoder, f"file:{folder}", Modality.AUDIO), folder, folder)


def test_sources_that_are_adopted(folder: Path, tmp_path: Path) -> None:
    def adopt(uri: str, family: str = "") -> EncoderSpec | None:
        return audio.resolve_source("mine", SourceUri.parse(uri, family))

    found = adopt(f"file:{folder}")
    assert found is not None
    assert (found.name, found.modality, found.description) == ("mine", Modality.AUDIO, "wav2vec2 of transformers")
    assert adopt(f"file:{folder}", "bert") is None
    assert adopt(f"file:{tmp_path}") is None
    for repository in ("facebook/wav2vec2-base", "openai/whisper-tiny", "MIT/ast-finetuned-audioset-10-10-0.4593"):
        assert adopt(f"hf:{repository}") is not None
    for repository in ("bert-base-uncased", "facebook/dinov2-small", "someone/asterisk"):
        assert adopt(f"hf:{repository}") is None
    assert adopt("hf:someone/their-model", "audio") is not None
    for uri in (f"file:{folder}", "hf:facebook/wav2vec2-base"):
        registered = PluginRegistry.load().resolve_source("mine", SourceUri.parse(uri))
        assert registered is not None
        assert registered.spec.encoder is AudioEncoder


def test_a_model_of_another_type_is_named(folder: Path) -> None:
    tiny.change(folder, "config.json", model_type="encodec")
    said = audio.refuse_source(SourceUri.parse(f"file:{folder}"))
    assert said is not None
    assert "'encodec'" in said.reason
    assert "whisper" in said.remedy
    assert "'encodec'" in refusal(lambda: export(folder))


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)
    name = "encoder.layers.0.attention.q_proj.weight"
    save_file({key: value for key, value in whole.items() if key != name}, path, {"format": "pt"})
    assert f"lacks 1 weight of its architecture: {name}" in refusal(lambda: export(folder))
    save_file({**whole, name: whole[name][:3].clone()}, path, {"format": "pt"})
    assert "1 weight in another shape" in refusal(lambda: export(folder))
    path.write_bytes(path.read_bytes()[:1000])
    assert "cut off" in refusal(lambda: export(folder))


def test_weights_without_a_place_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "lm_head.weight": torch.zeros(3, 3)}, path, {"format": "pt"})
    assert export(folder).unused == ("lm_head.weight",)
    tiny.change(folder, "config.json", num_hidden_layers=1)
    assert "layers that its config.json does not have" in refusal(lambda: export(folder))


def test_weights_of_older_folders_have_other_names(folder: Path) -> None:
    """The convolution over positions has a length and a direction, which torch once named otherwise."""
    path = folder / "model.safetensors"
    new = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {key.replace(*next((p for p in new.items() if p[0] in key), ("-", "-"))): v for key, v in load_file(path).items()}
    assert set(renamed) != set(load_file(path))
    expected = export(folder).module.state_dict()
    save_file(renamed, path, {"format": "pt"})
    for key, value in export(folder).module.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_the_decoder_of_whisper_is_left_out(tmp_path: Path) -> None:
    model = tiny.random_model("whisper", "WhisperForConditionalGeneration")
    found = export(tiny.write(model, "whisper", tmp_path))
    assert all(name.startswith("decoder.") for name in found.unused)
    assert {"batch", "samples"}.isdisjoint(axis for axes in found.inputs.values() for axis in axes[1:])


@pytest.mark.parametrize(
    ("kind", "fields", "word"),
    [
        ("wav2vec2", {"feature_extractor_type": "EncodecFeatureExtractor"}, "EncodecFeatureExtractor"),
        ("wav2vec2", {"sampling_rate": 0}, "sampling_rate"),
        ("wav2vec2", {"sampling_rate": "fast"}, "ValueError"),
        ("whisper", {"n_fft": 512}, "n_fft"),
        ("whisper", {"chunk_length": 30}, "chunk_length"),
        ("whisper", {"feature_size": 128}, "feature_size"),
        ("whisper", {"dither": 1e-4}, "dither"),
        ("audio-spectrogram-transformer", {"max_length": 1024}, "max_length"),
        ("audio-spectrogram-transformer", {"num_mel_bins": 128}, "num_mel_bins"),
    ],
)
def test_preprocessing_that_does_not_fit_its_model(kind: str, fields: Any, word: str, tmp_path: Path) -> None:
    folder = tiny.write(tiny.random_model(kind), kind, tmp_path)
    tiny.change(folder, SAYS, **fields)
    said = refusal(lambda: export(folder))
    assert word in said
    assert "InvalidInput" not in said


def test_a_folder_that_does_not_say_how_its_sound_is_prepared(folder: Path) -> None:
    tiny.change(folder, SAYS, feature_extractor_type=None)
    before = export(folder).preprocessing
    (folder / "processor_config.json").write_text(f'{{"feature_extractor": {(folder / SAYS).read_text()}}}')
    (folder / SAYS).unlink()
    assert export(folder).preprocessing == before
    (folder / "processor_config.json").unlink()
    assert "how its sound is prepared" in refusal(lambda: export(folder))
