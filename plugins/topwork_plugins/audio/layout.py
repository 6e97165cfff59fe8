"""Reads what a folder in transformers' layout says of an audio model: config.json and preprocessor_config.json. JSON only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput

from topwork_plugins.audio.recipes import FRAME, HOP, FbankRecipe, SampleRecipe, SoundRecipe, WhisperRecipe
from topwork_plugins.idle_keys import LEARNING, without_idle
from topwork_plugins.json_files import read_json

SAMPLES, WHISPER, AST = "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor", "ASTFeatureExtractor"
#: The architectures (config.json, model_type) that the tests compare with transformers, and what prepares the sound of each.
EXTRACTORS = {
    "audio-spectrogram-transformer": AST,
    "hubert": SAMPLES,
    "wav2vec2": SAMPLES,
    "wavlm": SAMPLES,
    "whisper": WHISPER,
}
#: processor_config.json of newer folders holds the same under `feature_extractor`, and goes before.
FILES = ("processor_config.json", "preprocessor_config.json")
WANTED = "name the folder of a transformers model"
#: What an extractor does where its file does not say: the defaults of transformers' classes.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    SAMPLES: {"sampling_rate": 16_000, "do_normalize": True},
    WHISPER: {"sampling_rate": 16_000, "feature_size": 80, "hop_length": HOP, "chunk_length": 30, "n_fft": FRAME, "dither": 0.0},
    AST: {
        "sampling_rate": 16_000,
        "num_mel_bins": 128,
        "max_length": 1024,
        "do_normalize": True,
        "mean": -4.2677393,
        "std": 4.5689974,
    },
}
#: What else config.json says that no feature depends on.
IDLE_KEYS = (
    r"num_labels|auto_map|apply_spec_augment|mask_.*|.*layerdrop|ctc_.*|.*_loss_.*|.*token_id.*|.*_tokens?|vocab_size|use_cache"
    r"|decoder_.*|num_(negatives|codevector.*)|codevector_dim|proj_codevector_dim|xvector_.*|tdnn_.*|classifier_proj_size"
    r"|use_weighted_layer_sum|max_target_positions|median_filter_width|replace_prob|num_ctc_classes"
)


@dataclass(frozen=True)
class Layout:
    """A model's folder and its config.json."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The model_type."""
        return str(self.config["model_type"])

    @property
    def definition(self) -> dict[str, Any]:
        """The parts of config.json that change what a feature means."""
        return without_idle(self.config, LEARNING, IDLE_KEYS)


def read_layout(folder: Path) -> Layout:
    """Read config.json. InvalidInput where it is not there, or is of no audio model that is known here."""
    config = read_json(folder / "config.json", WANTED)
    kind = config.get("model_type")
    if kind not in EXTRACTORS:
        raise InvalidInput(
            f"{folder.name} is a {kind!r} model (config.json), not an audio model that is known here",
            remedy=f"known are {', '.join(sorted(EXTRACTORS))}",
        )
    return Layout(folder, config)


def is_ours(folder: Path) -> bool:
    """Tell whether the folder holds a model of this family, by its JSON files alone."""
    try:
        read_layout(folder)
    except InvalidInput:
        return False
    return True


def read_recipe(layout: Layout) -> SoundRecipe:
    """Read the preprocessing of a folder. InvalidInput where there is none, or another than its model's."""
    said, wanted = _extractor(layout.folder), EXTRACTORS[layout.kind]
    name = said.get("feature_extractor_type") or wanted
    if name != wanted:
        raise InvalidInput(
            f"{layout.folder.name} prepares its sound by {name}", remedy=f"models like it are prepared by {wanted}"
        )
    try:
        return _recipe(layout.config, wanted, {**DEFAULTS[wanted], **said})
    except InvalidInput:
        raise
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInput(
            f"{layout.folder.name} has a {type(error).__name__} in {FILES[1]} or config.json: {error}",
            remedy="copy the files again",
        ) from error


def _extractor(folder: Path) -> Mapping[str, Any]:
    for name in FILES:
        found = read_json(folder / name, missing_ok=True)
        found = found.get("feature_extractor", {}) if name == FILES[0] else found
        if found:
            return found
    raise InvalidInput(
        f"{folder.name} does not say how its sound is prepared",
        remedy=f'copy its {FILES[1]}, or write one: {{"feature_extractor_type": "{SAMPLES}"}}',
    )


def _recipe(config: Mapping[str, Any], wanted: str, said: Mapping[str, Any]) -> SoundRecipe:
    rate = int(said["sampling_rate"])
    if not 1000 <= rate <= 192_000:
        raise InvalidInput(f"the sampling_rate is {rate}", remedy="copy its preprocessor_config.json again")
    if wanted == SAMPLES:
        return SampleRecipe(rate, bool(said["do_normalize"]), _shortest(config))
    if wanted == WHISPER:
        return _whisper(config, said, rate)
    mean, std = (float(said["mean"]), float(said["std"])) if said["do_normalize"] else (0.0, 0.5)
    columns, stride = int(config.get("max_length", 1024)), int(config.get("time_stride", 10))
    positions = (columns - int(config.get("patch_size", 16))) // stride + 1
    _check_equal("num_mel_bins", int(said["num_mel_bins"]), int(config.get("num_mel_bins", 128)))
    _check_equal("max_length", int(said["max_length"]), columns)
    return FbankRecipe(rate, int(said["num_mel_bins"]), columns, stride, positions, mean, std)


def _whisper(config: Mapping[str, Any], said: Mapping[str, Any], rate: int) -> WhisperRecipe:
    columns = int(said["chunk_length"]) * rate // HOP
    _check_equal("n_fft", int(said["n_fft"]), FRAME)
    _check_equal("hop_length", int(said["hop_length"]), HOP)
    _check_equal("dither", float(said["dither"]), 0.0)
    _check_equal("feature_size", int(said["feature_size"]), int(config.get("num_mel_bins", 80)))
    _check_equal("chunk_length in columns", columns, 2 * int(config.get("max_source_positions", 1500)))
    return WhisperRecipe(rate, int(said["feature_size"]), columns, 2, columns // 2)


def _check_equal(name: str, said: float, needed: float) -> None:
    if said != needed:
        raise InvalidInput(f"the {name} of {FILES[1]} is {said}, and its model needs {needed}", remedy="copy the files again")


def _shortest(config: Mapping[str, Any]) -> int:
    """The samples that give one frame: from the last convolution down to the first."""
    kernels = config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))
    samples = 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        samples = (samples - 1) * int(stride) + int(kernel)
    return samples
