"""Graphs of encoders of texts against transformers, on a tiny random model of each kind; MiniLM's real weights, marked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from tiny_berts import DIM, LAYERS, POSITIONS, Exported, export, numpy_poolings, opened, transformers_outputs
from topwork_plugins.bert.architectures import ENCODER_DECODERS, Architecture, architecture_of
from topwork_plugins.bert.plugin import register_encoders
from topwork_server import EncoderSpec, TextItem
from topwork_server.runtime.export import fingerprints as fingerprints_of

TOLERANCE = 1e-4
TEXTS = [
    "A small bird sings.",
    "Bread",
    "The train to the coast leaves at seven, and the last carriage is the quiet one; bring your own coffee and a book.",
    "Naïve café 漢字 😀!",
]
SINGLES = [TextItem(text) for text in TEXTS]
PAIRS = [TextItem("Who sings at night?", "A small bird sings."), TextItem("Bread", "The train leaves at seven, and so do I.")]


#: One line of modules.json: class, folder, its config.json.
Module = tuple[str, str, dict[str, Any] | None]


@pytest.fixture(scope="module", params=(*tiny_berts.ARCHITECTURES, "xlnet", *ENCODER_DECODERS))
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    return export(tiny_berts.write(folder / "model", request.param), folder / "out")


def known(exported: Exported) -> Architecture:
    return architecture_of(json.loads((exported.source / "config.json").read_text())["model_type"])


@pytest.mark.parametrize("items", [SINGLES[1:2], SINGLES, PAIRS], ids=["one", "mixed", "pairs"])
def test_every_architecture_equals_transformers(architecture: Exported, items: list[TextItem]) -> None:
    ours = architecture.embed(items)
    theirs, mask = transformers_outputs(architecture.source, items)
    assert set(theirs) == {name for name in ours if name == "tokens" or name.startswith("hidden.")}
    assert len(theirs) == LAYERS + 2
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        assert np.abs((ours[name] - expected) * mask[..., None]).max() < TOLERANCE, name
    poolings = numpy_poolings(theirs["tokens"], mask)
    for tap in known(architecture).poolings:
        assert np.abs(ours[tap.name] - poolings[tap.mode]).max() < TOLERANCE, tap.name
    assert np.array_equal(ours["pooled"], ours["mean"])  # the default of a plain transformers folder


def test_a_text_as_long_as_the_limit_equals_transformers(architecture: Exported) -> None:
    text = "bird " * POSITIONS
    while architecture.encoder._tokenization.length(text) > POSITIONS:
        text = text[:-1]
    [sample] = architecture.samples([TextItem(text)])
    assert architecture.encoder.cost(sample) == POSITIONS
    theirs, _ = transformers_outputs(architecture.source, [TextItem(text)])
    assert np.abs(architecture.run([sample])["tokens"] - theirs["tokens"]).max() < TOLERANCE


def test_batch_mates_change_nothing(architecture: Exported) -> None:
    samples = architecture.samples([*SINGLES, *PAIRS])
    together = architecture.run(samples)
    for position, sample in enumerate(samples):
        alone, length = architecture.run([sample]), architecture.encoder.cost(sample)
        for name, rows in alone.items():
            mate = together[name][position]
            mate = mate[:length] if rows.ndim == 3 else mate
            assert np.abs(rows[0] - mate).max() < 2e-5, name


def test_the_record_of_the_export(architecture: Exported) -> None:
    manifest = architecture.manifest
    poolings = [tap.name for tap in known(architecture).poolings]
    assert poolings[-2:] == ["mean", "max"]
    assert [info.tap.name for info in manifest.taps] == [
        "pooled",
        "tokens",
        *poolings,
        *(f"hidden.{n}" for n in range(LAYERS + 1)),
    ]
    assert {info.tap.dim for info in manifest.taps} == {DIM}
    assert manifest.numerics.parity > 0.999999
    longest = max(int(n) for n in re.findall(r"input_ids\[1, (\d+)\]", " ".join(manifest.batches)))
    assert POSITIONS - 4 <= longest <= POSITIONS  # parity was measured up to the limit


def modules(
    poolings: dict[str, Any], *after: tuple[str, str, dict[str, Any] | None]
) -> list[tuple[str, str, dict[str, Any] | None]]:
    kind = "sentence_transformers.models."
    head = [(f"{kind}Transformer", "", None), (f"{kind}Pooling", "1_Pooling", poolings)]
    return [*head, *((kind + name, path, config) for name, path, config in after)]


def flags(**modes: bool) -> dict[str, Any]:
    """1_Pooling/config.json as releases before 5.3 wrote it."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": DIM, **{f"pooling_mode_{name}": modes.get(name, False) for name in names}}


@pytest.mark.parametrize(
    ("config", "modes", "normalize"),
    [
        (flags(cls_token=True), ["cls"], False),
        (flags(mean_tokens=True), ["mean"], True),
        (flags(max_tokens=True), ["max"], False),
        (flags(lasttoken=True, mean_tokens=True, cls_token=True), ["cls", "mean", "lasttoken"], True),
        ({"embedding_dimension": DIM, "pooling_mode": "weightedmean"}, ["weightedmean"], False),
        ({"embedding_dimension": DIM, "pooling_mode": ["mean_sqrt_len_tokens", "max"]}, ["mean_sqrt_len_tokens", "max"], False),
    ],
    ids=["cls", "mean, normalized", "max", "several, normalized", "new key", "new keys"],
)
def test_a_sentence_transformers_folder_pools_as_it_says(
    tmp_path: Path, config: dict[str, Any], modes: list[str], normalize: bool
) -> None:
    source = tiny_berts.write(tmp_path / "model")
    tiny_berts.write_modules(source, modules(config, *([("Normalize", "2_Normalize", None)] if normalize else [])))
    ours = export(source, tmp_path / "out").embed(SINGLES)
    theirs, mask = transformers_outputs(source, SINGLES)
    poolings = numpy_poolings(theirs["tokens"], mask)
    expected = np.concatenate([poolings[mode] for mode in modes], axis=1)
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert ours["pooled"].shape == (len(TEXTS), DIM * len(modes))
    assert np.abs(ours["pooled"] - expected).max() < TOLERANCE


@pytest.mark.parametrize(
    ("model_type", "activation", "biased"), [("bert", "activation.Tanh", True), ("t5", "linear.Identity", False)]
)
def test_a_dense_module_is_applied(model_type: str, activation: str, biased: bool, tmp_path: Path) -> None:
    """Without a bias it is as in the folders of sentence-t5."""
    from safetensors.numpy import save_file

    source = tiny_berts.write(tmp_path / "model", model_type)
    activation_function = f"torch.nn.modules.{activation}"
    dense = {"in_features": DIM, "out_features": 5, "bias": biased, "activation_function": activation_function}
    tiny_berts.write_modules(
        source, modules(flags(mean_tokens=True), ("Dense", "2_Dense", dense), ("Normalize", "3_Normalize", None))
    )
    random = np.random.default_rng(3)
    weight, bias = random.normal(size=(5, DIM)).astype(np.float32), random.normal(size=5).astype(np.float32)
    save_file({"linear.weight": weight} | ({"linear.bias": bias} if biased else {}), source / "2_Dense" / "model.safetensors")
    ours = export(source, tmp_path / "out")
    theirs, mask = transformers_outputs(source, SINGLES)
    linear = numpy_poolings(theirs["tokens"], mask)["mean"] @ weight.T
    expected = np.tanh(linear + bias) if biased else linear
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(ours.embed(SINGLES)["pooled"] - expected).max() < TOLERANCE
    assert ours.manifest.taps[0].tap.dim == 5


def test_a_prompt_that_is_not_pooled(tmp_path: Path) -> None:
    """include_prompt false: the prompt takes part in attention, and the pooled row leaves it and [CLS] out."""
    source = tiny_berts.write(tmp_path / "model")
    tiny_berts.write_modules(source, modules(flags(mean_tokens=True) | {"include_prompt": False}))
    exported = export(source, tmp_path / "out")
    prompted = exported.embed(SINGLES, prompt="query: ")
    theirs, mask = transformers_outputs(source, [TextItem("query: " + text) for text in TEXTS])
    prompt = len(exported.encoder._tokenization._tokenizer.encode("query: ")) - 1
    expected = numpy_poolings(theirs["tokens"][:, prompt:], mask[:, prompt:])
    assert np.abs(prompted["pooled"] - expected["mean"]).max() < TOLERANCE
    assert np.abs(prompted["mean"] - numpy_poolings(theirs["tokens"], mask)["mean"]).max() < TOLERANCE
    plain = exported.embed(SINGLES)
    assert np.array_equal(plain["pooled"], plain["mean"])


def test_of_a_whole_t5_the_encoder_is_read(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", "t5", kind="AutoModelForSeq2SeqLM", num_decoder_layers=5)
    ours = export(source, tmp_path / "out")
    theirs, mask = transformers_outputs(source, SINGLES)
    assert np.abs((ours.embed(SINGLES)["tokens"] - theirs["tokens"]) * mask[..., None]).max() < TOLERANCE
    assert not any("encoder" in name for name in ours.manifest.unused)


def test_settings_choose_the_pooling_of_a_plain_folder(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model")
    ours = export(source, tmp_path / "out", pooling="cls").embed(SINGLES)
    assert np.array_equal(ours["pooled"], ours["cls"])
    assert not np.allclose(ours["pooled"], ours["mean"], atol=0.1)


def test_fingerprints_follow_meaning_alone(tmp_path: Path) -> None:
    models = [tiny_berts.write(tmp_path / f"seed {seed}", seed=seed) for seed in (0, 1)]

    def fingerprints(folder: str, seed: int = 0, **settings: Any) -> set[str]:
        source = shutil.copytree(models[seed], tmp_path / folder)
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"transformers_version": folder, "_name_or_path": folder}))
        return set(fingerprints_of(tiny_berts.spec_of(source, **settings), source).values())

    first = fingerprints("here")
    assert len(first) == LAYERS + 6  # a tap, a fingerprint
    assert fingerprints("there") == first
    assert not fingerprints("other weights", seed=1) & first
    assert not fingerprints("other pooling", pooling="cls") & first


@pytest.fixture(scope="module")
def minilm(assets: Callable[[EncoderSpec], Path], artifact: Callable[[EncoderSpec], Path]) -> Exported:
    spec = next(spec for spec in register_encoders() if spec.name == "all-minilm-l6-v2")
    return opened(assets(spec), spec, artifact(spec))


@pytest.mark.weights
def test_minilm_equals_transformers(minilm: Exported) -> None:
    ours = minilm.embed(SINGLES)
    theirs, mask = transformers_outputs(minilm.source, SINGLES)
    for name, expected in theirs.items():
        assert np.abs((ours[name] - expected) * mask[..., None]).max() < TOLERANCE, name
    mean = numpy_poolings(theirs["tokens"], mask)["mean"]
    assert np.abs(ours["pooled"] - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() < TOLERANCE


@pytest.mark.weights
def test_minilm_is_what_its_spec_says(minilm: Exported) -> None:
    spec = next(spec for spec in register_encoders() if spec.name == "all-minilm-l6-v2")
    assert tuple(info.tap for info in minilm.manifest.taps) == spec.taps
    assert minilm.manifest.parameters == spec.parameters
    assert minilm.encoder._settings.max_tokens == 256


@pytest.mark.weights
def test_minilm_reads_its_own_vocabulary(minilm: Exported) -> None:
    """The ids that the published model gives for the sentence on its card."""
    [sample] = minilm.samples([TextItem("This is an example sentence")])
    assert sample.inputs["input_ids"].tolist() == [101, 2023, 2003, 2019, 2742, 6251, 102]


@pytest.mark.weights
def test_minilm_gives_the_published_numbers(minilm: Exported) -> None:
    """The first of the 384 that the documentation of sentence-transformers prints for this sentence."""
    [row] = minilm.embed([TextItem("This is an example sentence")])["pooled"]
    assert np.allclose(row[:4], [0.0676569, 0.0634959, 0.0487131, 0.0793050], atol=1e-5)


@pytest.mark.weights
def test_minilm_knows_what_is_alike(minilm: Exported) -> None:
    texts = [
        "A man is playing a guitar.",
        "Someone plays an instrument.",
        "The stock market fell on Monday.",
        "Shares lost value today.",
    ]
    rows = minilm.embed([TextItem(text) for text in texts])["pooled"]
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosines = rows @ rows.T
    assert cosines[0, 1] > 0.5
    assert cosines[2, 3] > 0.5
    assert cosines[:2, 2:].max() < 0.2
