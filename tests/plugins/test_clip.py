"""CLIP and SigLIP of transformers, and open_clip's folders, beside the libraries themselves on small random models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import torch
from PIL import Image
from tiny_clips import KINDS, LENGTH, TEXTS, ExportedTower, photos
from topwork_plugins.clip import plugin as clip
from topwork_plugins.clip.layout import read_layout
from topwork_server import ImageItem, InvalidInput, Modality, SourceUri, TextItem
from topwork_server.types import VideoItem

#: How near rows are to those of the library.
NEAR = {"rtol": 0, "atol": 2e-5}


class Exported:
    """A folder and its two towers, exported."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder = folder
        self.images, self.texts = tiny_clips.export(folder, out)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp(request.param)
    return Exported(tiny_clips.write(request.param, place / request.param), place / "out")


@pytest.fixture(scope="module", params=[False, True], ids=["clip", "siglip"])
def open_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp("open_clip")
    return Exported(tiny_clips.write_open_clip(place / "model", siglip=request.param), place / "out")


def reference(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def slow_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def unit(rows: Any) -> Any:
    return torch.nn.functional.normalize(rows, dim=-1).numpy()


def test_texts_are_as_transformers_gives_them(model: Exported) -> None:
    from transformers import AutoTokenizer

    tokenizer, net, tower = AutoTokenizer.from_pretrained(model.folder), reference(model.folder), model.texts
    padding = True if "clip" in model.folder.name else "max_length"
    given = tokenizer(TEXTS, padding=padding, max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = net.get_text_features(**given)
        hidden = net.text_model(**given, output_hidden_states=True).hidden_states
    samples = tower.samples(map(TextItem, TEXTS), truncate=True)
    rows = tower.rows(samples)
    length = rows["tokens"].shape[1]
    assert length == given["input_ids"].shape[1]
    np.testing.assert_array_equal(tower.encoder.collate(samples)["input_ids"], given["input_ids"].numpy())
    np.testing.assert_allclose(rows["pooled"], unit(found.pooler_output), **NEAR)
    for i, sample in enumerate(samples):
        real = sample.tokens.positions
        expected = {"tokens": found.last_hidden_state, **{f"hidden.{n}": each for n, each in enumerate(hidden)}}
        for tap, each in expected.items():
            np.testing.assert_allclose(rows[tap][i][real], each[i].numpy()[real], **NEAR, err_msg=tap)


def test_pictures_are_as_transformers_gives_them(model: Exported) -> None:
    net, processor, tower = reference(model.folder), slow_processor(model.folder), model.images
    given = processor([Image.fromarray(photo) for photo in photos()], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = net.get_image_features(given)
        inside = net.vision_model(given, output_hidden_states=True)
    rows = tower.rows(tower.samples(photos()))
    np.testing.assert_allclose(rows["pooled"], unit(found.pooler_output), **NEAR)
    first = int("cls" in rows)
    assert first == ("clip" in model.folder.name)
    if first:
        np.testing.assert_allclose(rows["cls"], inside.pooler_output.numpy(), **NEAR)
    np.testing.assert_allclose(rows["patches"], inside.last_hidden_state[:, first:].numpy(), **NEAR)
    for n, each in enumerate(inside.hidden_states[1:], 1):
        np.testing.assert_allclose(rows[f"block.{n}"], each[:, first:].numpy(), **NEAR)


def test_open_clip_is_as_the_library_gives_it(open_model: Exported) -> None:
    import open_clip

    texts = [*TEXTS, "It&#39;s â€œquotedâ€\x9d  &amp; tidy", "ﬁ THE\n\tEND 漢字 😀", "word " * 60]
    net, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{open_model.folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{open_model.folder}")(texts)
    samples = open_model.texts.samples(map(TextItem, texts), truncate=True)
    np.testing.assert_array_equal([sample.inputs["input_ids"] for sample in samples], tokens.numpy())
    pixels = torch.stack([prepare(Image.fromarray(photo)) for photo in photos()])
    pictures = open_model.images.samples(photos())
    np.testing.assert_array_equal([sample.inputs["pictures"] for sample in pictures], pixels.numpy())
    net.eval()
    with torch.no_grad():
        text, image = net.encode_text(tokens, normalize=True), net.encode_image(pixels, normalize=True)
        inside = {} if hasattr(net, "text") else net.visual.forward_intermediates(pixels, output_fmt="NLC")
    rows = open_model.images.rows(pictures)
    np.testing.assert_allclose(open_model.texts.rows(samples)["pooled"], text.numpy(), **NEAR)
    np.testing.assert_allclose(rows["pooled"], image.numpy(), **NEAR)
    for n, block in enumerate(inside.get("image_intermediates", ()), 1):
        np.testing.assert_allclose(rows[f"block.{n}"], block.numpy(), **NEAR)


def test_a_row_does_not_depend_on_its_batch(model: Exported) -> None:
    check_batches(model)


def test_a_row_of_open_clip_does_not_depend_on_its_batch(open_model: Exported) -> None:
    check_batches(open_model)


def check_batches(towers: Exported) -> None:
    texts = towers.texts.samples(map(TextItem, TEXTS), truncate=True)
    for tower, samples in ((towers.texts, texts), (towers.images, towers.images.samples(photos()))):
        together = tower.rows(samples)["pooled"]
        for size in (1, 2, 3):
            parts = [tower.rows(samples[i : i + size])["pooled"] for i in range(0, len(samples), size)]
            np.testing.assert_allclose(np.concatenate(parts), together, rtol=0, atol=1e-5)


def test_token_rows_know_their_characters(model: Exported) -> None:
    text = "The cat on the boat"
    (sample,) = model.texts.samples([TextItem(text)])
    covered = {text[start:end].strip() for start, end in sample.tokens.chars}
    assert all(text[start:end].strip() in text for start, end in sample.tokens.chars)
    assert "T" in covered or "The" in covered or "Th" in covered
    assert (np.diff(sample.tokens.chars[:, 0]) >= 0).all()


def test_tokens_of_a_text_are_those_of_its_rows_without_padding(model: Exported) -> None:
    encoder, text = model.texts.encoder, "The cat on the boat"
    (sample,) = model.texts.samples([TextItem(text)])
    tokens = encoder.tokenize(text, encoder.options())
    ids = [token.id for token in tokens]
    assert ids == sample.inputs["input_ids"].tolist()[: len(ids)]
    assert [token.text for token in tokens if token.chars] == [text[slice(*token.chars)] for token in tokens if token.chars]
    assert encoder.detokenize(ids, special=False).lower() == text.lower()
    assert encoder.max_tokens == LENGTH
    with pytest.raises(InvalidInput, match="token ids"):
        encoder.detokenize([1 << 20], special=False)


def test_texts_of_open_clip_have_tokens(open_model: Exported) -> None:
    encoder = open_model.texts.encoder
    ids = [token.id for token in encoder.tokenize("A  photo of caf\u00e9s", encoder.options())]
    assert encoder.detokenize(ids, special=False) == "a photo of caf\u00e9s"


@pytest.mark.parametrize("text", ["bird " * 100, "b" * 500])
def test_a_text_over_the_limit_is_refused_or_cut(model: Exported, text: str) -> None:
    with pytest.raises(InvalidInput, match=f"the limit is {LENGTH}"):
        model.texts.samples([TextItem(text)])
    (sample,) = model.texts.samples([TextItem(text)], truncate=True)
    assert len(sample.inputs["input_ids"]) == LENGTH
    assert sample.notes["truncated_tokens"] > 0


@pytest.mark.parametrize("item", [ImageItem(b"x"), TextItem("a", "b"), VideoItem(b"x"), TextItem(""), TextItem(" \n")])
def test_what_is_no_text_is_refused(model: Exported, item: Any) -> None:
    with pytest.raises(InvalidInput):
        model.texts.samples([item])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_tokenizer_of_another_language_is_read(kind: str, tmp_path: Path) -> None:
    """It knows no token of our own examples."""
    folder = tiny_clips.give_words(tiny_clips.write(kind, tmp_path / kind), ["eule", "sieht", "maus"])
    towers = tiny_clips.export(folder, tmp_path / "out")
    assert towers[1].manifest.numerics.parity > 0.9999
    texts = towers[1].encoder
    [sample] = texts.preprocess(TextItem("eule sieht topwork"), texts.options())
    assert sample.notes == {"unknown_tokens": 1}
    with pytest.raises(InvalidInput, match="knows no token of the text") as refused:
        texts.preprocess(TextItem("An owl"), texts.options())
    assert "'allow'" in refused.value.remedy
    assert texts.preprocess(TextItem("An owl"), texts.options(unknown="allow"))
    with pytest.raises(InvalidInput, match="does not know 1 of the tokens"):
        texts.preprocess(TextItem("eule sieht topwork"), texts.options(unknown="error"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {"transformers": tiny_clips.write("clip", place / "clip"), "open_clip": tiny_clips.write_open_clip(place / "open")}


@pytest.fixture
def copy(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder that the test may spoil."""
    return shutil.copytree(folders[request.param], tmp_path / "copy")


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def change(folder: Path, **tensors: Any) -> None:
    """Replace tensors by name, with "." for "__"; None takes one away."""
    from safetensors.torch import load_file, save_file

    found = load_file(weights(folder))
    for name, tensor in tensors.items():
        known = next((key for key in found if key.endswith(name.replace("__", "."))), name.replace("__", "."))
        found.pop(known, None)
        if tensor is not None:
            found[known] = tensor
    save_file(found, weights(folder), {"format": "pt"})


@pytest.mark.parametrize("copy", ["transformers", "open_clip"], indirect=True)
@pytest.mark.parametrize("tower", [0, 1])
def test_weights_that_are_missing_or_of_another_shape_are_refused(copy: Path, tower: int) -> None:
    layer = {"ln_final__weight": None} if (copy / "open_clip_config.json").exists() else {"final_layer_norm__weight": None}
    change(copy, **dict.fromkeys(layer, torch.zeros(7)))
    assert ".weight is (7,) and should be (" in refusal(copy, tower).message
    change(copy, **layer)
    assert "lacks 1 weight of its architecture" in refusal(copy, tower).message
    weights(copy).write_bytes(b"no weights")
    assert "does not begin with a header" in refusal(copy, tower).message
    weights(copy).unlink()
    assert isinstance(refusal(copy, tower), InvalidInput)


@pytest.mark.parametrize("copy", ["transformers", "open_clip"], indirect=True)
def test_weights_without_a_place_are_told(copy: Path, tmp_path: Path) -> None:
    change(copy, extra__head__weight=torch.zeros(3))
    assert "extra.head.weight" in tower_of(copy, 0, tmp_path / "out").manifest.unused


@pytest.mark.parametrize("copy", ["transformers"], indirect=True)
@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_layers_that_config_json_does_not_have_are_refused(copy: Path, tower: str) -> None:
    change(copy, **{f"{tower}__encoder__layers__9__layer_norm1__weight": torch.zeros(3)})
    assert "layers that its config.json does not have" in refusal(copy, 0).message


@pytest.mark.parametrize("copy", ["transformers"], indirect=True)
def test_a_folder_without_its_tokenizer_or_with_another_is_refused(copy: Path) -> None:
    other = json.loads((copy / "tokenizer.json").read_text())
    other["model"]["vocab"] |= {f"word{n}": len(other["model"]["vocab"]) + n for n in range(40)}
    (copy / "tokenizer.json").write_text(json.dumps(other))
    assert "word table" in refusal(copy, 1).message
    (copy / "tokenizer.json").write_text("{")
    assert "cannot be read" in refusal(copy, 1).message
    (copy / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(copy, 1).message


@pytest.mark.parametrize("copy", ["transformers"], indirect=True)
def test_a_folder_that_prepares_other_pictures_than_its_net_reads_is_refused(copy: Path) -> None:
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", "crop_size": 64}))
    assert "64 x 64" in refusal(copy, 0).message
    (copy / "preprocessor_config.json").unlink()
    assert "how its pictures are prepared" in refusal(copy, 0).message


def refusal(folder: Path, tower: int) -> InvalidInput:
    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    with pytest.raises(InvalidInput) as caught:
        tower_of(folder, tower, out)
    return caught.value


def tower_of(folder: Path, tower: int, out: Path) -> ExportedTower:
    spec = clip.resolve_source("tiny", SourceUri.parse(f"file:{folder}"))
    assert spec is not None
    return ExportedTower(spec.towers[tower], folder, out)


def test_sources_of_this_family_are_adopted(folders: dict[str, Path], tmp_path: Path) -> None:
    def adopted(uri: str, family: str = "") -> bool:
        spec = clip.resolve_source("mine", SourceUri.parse(uri, family))
        assert spec is None or spec.modalities == (Modality.IMAGE, Modality.TEXT)
        return spec is not None

    assert all(adopted(f"file:{folder}") for folder in folders.values())
    assert adopted("hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert adopted("hf:org/model", family="clip")
    assert adopted("hf:facebook/metaclip-b32-400m")
    assert adopted("hf:timm/ViT-B-16-SigLIP2")
    assert not adopted("hf:org/eclipse-bert")
    assert not adopted("hf:google/siglip-base", family="bert")
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    assert not adopted(f"file:{tmp_path}")
    refused = clip.refuse_source(SourceUri.parse(f"file:{tmp_path}"))
    assert refused is not None
    assert "NaFlex" in refused.reason


def test_a_clip_of_sentence_transformers_is_read_in_its_sub_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["transformers"], tmp_path / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    own, inside = (read_layout(folder) for folder in (folders["transformers"], tmp_path))
    assert (inside.folder, inside.config) == (tmp_path / "0_CLIPModel", own.config)
    assert clip.resolve_source("mine", SourceUri.parse(f"file:{tmp_path}"))


def test_a_folder_of_both_libraries_is_read_by_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["transformers"], tmp_path / "both")
    shutil.copytree(folders["open_clip"], folder, dirs_exist_ok=True)
    assert read_layout(folder).library == "transformers"
    (folder / "model.safetensors").unlink()
    assert read_layout(folder).library == "open_clip"


@pytest.mark.parametrize(("layers", "message"), [(10**9, "text_cfg.layers 1000000000, and the weights have"), (-1, "no whole")])
def test_an_open_clip_folder_of_more_layers_than_its_weights_is_refused(
    folders: dict[str, Path], tmp_path: Path, layers: int, message: str
) -> None:
    folder = shutil.copytree(folders["open_clip"], tmp_path / "copy")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = layers
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    from topwork_plugins.clip.open_clip_nets import load_model

    with pytest.raises(InvalidInput, match=message):
        load_model(read_layout(folder))


def test_an_open_clip_folder_with_what_is_not_read_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["open_clip"], tmp_path / "copy")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    refused = clip.refuse_source(SourceUri.parse(f"file:{folder}"))
    assert refused is not None
    assert (refused.nearness, "hf_model_name" in refused.reason) == (2, True)
