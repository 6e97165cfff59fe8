"""Audio models of transformers as they are served, against what their own modules give, on small random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sounds as tiny
import torch
from topwork_plugins.audio.layout import EXTRACTORS
from topwork_plugins.audio.plugin import AudioEncoder, SoundOptions
from topwork_server import EncoderSpec, Modality, Sample
from topwork_server.models.artifacts import Manifest
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session

#: Seconds of the recordings; two have the same length.
LENGTHS = (0.4, 1.1, 1.1, 0.7)


def spec_of(folder: Path) -> EncoderSpec:
    return EncoderSpec("tiny", AudioEncoder, f"file:{folder}", Modality.AUDIO)


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_exported_taps_are_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    model = tiny.random_model(kind)
    folder = tiny.write(model, kind, tmp_path / "model")
    spec, artifact = spec_of(folder), tmp_path / "artifact"
    artifact.mkdir()
    export_encoder(spec, folder, artifact)
    encoder, session = AudioEncoder(spec, artifact), Session(artifact / "model.onnx", threads=1)
    taps = [info.tap.name for info in Manifest.read(artifact).taps]
    sounds = [tiny.sound(seconds, seed) for seed, seconds in enumerate(LENGTHS)]
    samples: list[Sample] = [s for one in sounds for s in encoder.preprocess(tiny.item(one), SoundOptions())]
    expected = [expected_taps(model, kind, one) for one in sounds]
    assert [set(one) for one in expected] == [set(taps)] * len(sounds)
    for group in ([0], [1], [3], [1, 2], [2, 1, 1]):
        found = session.run(taps, encoder.collate([samples[i] for i in group]))
        for name, rows in zip(taps, found, strict=True):
            wanted = np.stack([expected[i][name] for i in group])
            np.testing.assert_allclose(rows, wanted, atol=2e-4 * np.abs(wanted).max(), err_msg=f"{name} of {group}")


def expected_taps(model: Any, kind: str, sound: Any) -> dict[str, Any]:
    """Every tap, as transformers gives it of one recording alone."""
    inputs = tiny.extractor(kind)(sound, sampling_rate=tiny.RATE, return_tensors="pt")
    columns = -(-len(sound) // 160)
    with torch.no_grad():
        match tiny.CONFIGS[kind][0]:
            case "whisper":
                found = model.encoder(inputs["input_features"], output_hidden_states=True)
                frames = -(-columns // 2)
                rows = {"pooled": found.last_hidden_state[0, :frames].mean(0)}
                states = [state[0, :frames] for state in found.hidden_states]
            case "audio-spectrogram-transformer":
                found = model(inputs["input_values"], output_hidden_states=True)
                rows = {"pooled": found.pooler_output[0], "cls": found.last_hidden_state[0, 0]}
                frames = min(12, -(-columns // 10))
                states = [state[0, 2:].reshape(2, 12, -1)[:, :frames].flatten(0, 1) for state in found.hidden_states]
            case _:
                found = model(inputs["input_values"], output_hidden_states=True)
                rows = {"pooled": found.last_hidden_state[0].mean(0)}
                states = [state[0] for state in found.hidden_states]
    return {name: row.numpy() for name, row in (rows | {f"hidden.{n}": s.mean(0) for n, s in enumerate(states)}).items()}


def test_every_known_architecture_is_compared() -> None:
    assert set(EXTRACTORS) == {kind for kind, _ in tiny.CONFIGS.values()}
