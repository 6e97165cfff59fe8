"""Tiny random audio models of transformers, in folders as on the hub, and recordings made in memory."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from topwork_server import AudioItem, prepare_torchvision

prepare_torchvision()

RATE = 16_000
_BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_CONVOLVED = {
    **_BASE,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}

#: model_type and config.json of each. Names with a dash more are variants of one type.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "audio-spectrogram-transformer": ("audio-spectrogram-transformer", {**_BASE, "num_mel_bins": 32, "max_length": 128}),
    "hubert": ("hubert", _CONVOLVED),
    "hubert-large": ("hubert", {**_CONVOLVED, **_STABLE}),
    "wav2vec2": ("wav2vec2", _CONVOLVED),
    "wav2vec2-large": ("wav2vec2", {**_CONVOLVED, **_STABLE}),
    "wavlm": ("wavlm", _CONVOLVED),
    "wavlm-large": ("wavlm", {**_CONVOLVED, **_STABLE}),
    "whisper": (
        "whisper",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 60,
            "pad_token_id": 1,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "decoder_start_token_id": 4,
            "suppress_tokens": [],
            "begin_suppress_tokens": [],
            "max_source_positions": 100,
        },
    ),
}


def random_model(kind: str, class_name: str = "", **fields: Any) -> Any:
    """A model of `CONFIGS`; weights that begin as equal are random, so that none may be left out."""
    import transformers
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model_type, config = CONFIGS[kind]
    made = AutoConfig.for_model(model_type, **config, **fields)
    model = getattr(transformers, class_name)(made) if class_name else AutoModel.from_config(made, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def extractor(kind: str) -> Any:
    """The feature extractor of transformers for a model of `CONFIGS`."""
    import transformers

    match CONFIGS[kind][0]:
        case "whisper":
            return transformers.WhisperFeatureExtractor(chunk_length=2)
        case "audio-spectrogram-transformer":
            return transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128)
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=True)


def write(model: Any, kind: str, folder: Path) -> Path:
    model.save_pretrained(folder)
    extractor(kind).save_pretrained(folder)
    return folder


def change(folder: Path, file: str, **fields: Any) -> None:
    """Change fields of a JSON file; None takes one away."""
    said = json.loads((folder / file).read_text()) | fields
    (folder / file).write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def sound(seconds: float, seed: int = 0, rate: int = RATE) -> Any:
    """(n,) float32, as int16 gives it back: a tone with its overtones in noise."""
    random = np.random.default_rng(seed)
    at = np.arange(round(seconds * rate)) / rate
    made = 0.3 * np.sin(2 * np.pi * (200 + 50 * seed) * at) + 0.1 * np.sin(2 * np.pi * 1234 * at)
    return np.asarray(np.rint((made + 0.05 * random.standard_normal(len(at))) * 32767) / 32768, np.float32)


def wav(samples: Any, rate: int = RATE, channels: int = 1) -> bytes:
    """The WAV file of (n,) or, with several channels, (n, channels) float samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.rint(np.asarray(samples) * 32768).clip(-32768, 32767).astype("<i2").tobytes())
    return file.getvalue()


def item(samples: Any) -> AudioItem:
    return AudioItem(wav(samples))
