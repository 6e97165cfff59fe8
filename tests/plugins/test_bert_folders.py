"""What the BERT family takes as a model: hooks, sources, folders of either layout, and folders that it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_berts
from tiny_berts import Prepared, export, prepare
from topwork_plugins.bert import plugin as bert
from topwork_plugins.bert.layout import read_layout
from topwork_server import InvalidInput, SourceUri, TextItem


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_berts.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A folder that the test may spoil."""
    return shutil.copytree(model, tmp_path / "copy")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_listing_imports_nothing_heavy() -> None:
    heavy = "torch transformers tokenizers onnxruntime".split()
    program = (
        "import sys; from topwork_plugins.bert import plugin as bert; found = list(bert.register_encoders());"
        f"assert len(found) > 5; print([m for m in {heavy} if m in sys.modules])"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


def test_specs_are_told_apart_and_complete() -> None:
    specs = list(bert.register_encoders())
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        SourceUri.parse(spec.source)
        assert spec.parameters
        assert spec.default_tap in {tap.name for tap in spec.taps}
        assert "not said" not in (spec.trained_on, spec.license)
    assert [s.name for s in specs if s.source.startswith("package:")] == ["all-minilm-l6-v2"]


def test_sources_of_this_family_are_adopted(model: Path, tmp_path: Path) -> None:
    def adopted(uri: str, family: str = "") -> bool:
        spec = bert.resolve_source("mine", SourceUri.parse(uri, family))
        assert spec is None or (spec.name == "mine" and SourceUri.parse(spec.source) == SourceUri.parse(uri))
        return spec is not None

    assert adopted("hf:org/some-bert@main")
    assert adopted("hf:org/some-bert", family="bert")
    assert not adopted("hf:org/some-bert", family="resnet")
    assert not adopted("timm:resnet18")
    assert not adopted("hf:timm/resnet18.a1_in1k")
    assert not adopted("onnx:/models/a.onnx", family="bert")
    assert adopted(f"file:{model}")
    assert not adopted(f"file:{tmp_path}")
    assert adopted(f"file:{tmp_path}", family="bert")  # refused later, and with the reason
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert adopted(f"file:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert not adopted(f"file:{tmp_path}")  # of texts alone is what has a tokenizer
    (tmp_path / "tokenizer.json").touch()
    assert adopted(f"file:{tmp_path}")
    (tmp_path / "preprocessor_config.json").touch()
    assert not adopted(f"file:{tmp_path}")


def test_a_sentence_transformers_folder_is_adopted_and_read_in_its_sub_folder(copy: Path, tmp_path: Path) -> None:
    """The old layout: nothing but modules.json at the top."""
    folder = tmp_path / "old"
    shutil.copytree(copy, folder / "0_BERT")
    (folder / "0_BERT" / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}')
    kind = "sentence_transformers.models."
    tiny_berts.write_modules(
        folder, [(f"{kind}Transformer", "0_BERT", None), (f"{kind}Pooling", "1_Pooling", {"pooling_mode": "cls"})]
    )
    assert bert.resolve_source("old", SourceUri.parse(f"file:{folder}"))
    exported = export(folder, tmp_path / "out")
    with pytest.raises(InvalidInput, match="the limit is 40"):
        exported.embed([TextItem("A small bird sings. " * 20)])
    rows = exported.embed([TextItem("A small bird sings.")])
    assert (rows["pooled"] == rows["cls"]).all()


def token_ids(prepared: Prepared, text: str) -> list[int]:
    return list(prepared.samples([TextItem(text)], unknown="allow")[0].inputs["input_ids"])


@pytest.mark.parametrize(
    ("architecture", "kept"),
    [("bert", ["vocab.txt"]), ("mpnet", ["vocab.txt"]), ("roberta", ["vocab.json", "merges.txt"])],
)
def test_a_tokenizer_is_made_from_vocabulary_files(tmp_path: Path, architecture: str, kept: list[str]) -> None:
    source = tiny_berts.write(tmp_path / "model", architecture)
    whole = prepare(source, tmp_path / "whole")
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]
    if kept == ["vocab.txt"]:
        words = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
        (source / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    else:
        (source / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
        (source / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{' '.join(m)}\n" for m in vocabulary["merges"]))
    (source / "tokenizer.json").unlink()
    made = prepare(source, tmp_path / "made")
    for text in ("A small bird sings.", "Naïve café 漢字 😀!"):
        assert token_ids(made, text) == token_ids(whole, text)


def test_lower_casing_is_taken_from_where_it_is_said(copy: Path, tmp_path: Path) -> None:
    lower = prepare(copy, tmp_path / "lower")
    assert token_ids(lower, "BREAD") == token_ids(lower, "bread")
    edit(copy / "tokenizer_config.json", do_lower_case=False)
    cased = prepare(copy, tmp_path / "cased")
    assert token_ids(cased, "BREAD") != token_ids(cased, "bread")
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}')
    lowered = prepare(copy, tmp_path / "lowered")
    [sample] = lowered.samples([TextItem("BREAD İ bird")])  # İ lower-cased is two characters: spans stay those of the text
    assert sample.tokens is not None
    assert sample.tokens.chars[-1].tolist()[1] == len("BREAD İ bird")
    assert token_ids(lowered, "BREAD") == token_ids(cased, "bread")


def test_pytorch_model_bin_is_read_without_unpickling(copy: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    plain = export(copy, tmp_path / "safetensors").embed([TextItem("A small bird sings.")])
    (copy / "model.safetensors").unlink()
    binary = export(copy, tmp_path / "bin").embed([TextItem("A small bird sings.")])
    assert (plain["pooled"] == binary["pooled"]).all()


class Boom:
    """What a pickle may do when it is opened."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (Path(__file__).parent / "boom",))


def test_a_pickle_with_code_in_it_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings.word_embeddings.weight": Boom()}, protocol=2))
    with pytest.raises(InvalidInput, match=r"pytorch_model\.bin is a pickle that runs code .*never loaded") as caught:
        export(copy, tmp_path / "out")
    assert "save_pretrained" in caught.value.remedy
    assert "weights_only" not in str(caught.value)  # torch's own advice is to let it run
    assert not (Path(__file__).parent / "boom").exists()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def garble(path: Path, begin: int, length: int = 64) -> None:
    content = bytearray(path.read_bytes())
    content[begin : begin + length] = b"\xff" * length
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message", "remedy"),
    [
        (
            lambda path: cut(path, 20_000),
            r"model\.safetensors is cut off: it has 20,000 bytes of [\d,]+",
            "download it again",
        ),
        (lambda path: cut(path, 500), "cut off: it has 500 bytes of at least", "download it again"),
        (lambda path: cut(path, 0), "is empty", "download it again"),
        (
            lambda path: path.write_bytes(path.read_bytes() + b"more"),
            "damaged: it has .* bytes, and its header tells of",
            "again",
        ),
        (lambda path: garble(path, 0), "damaged: it does not begin with a header", "download it again"),
        (lambda path: garble(path, 100), "damaged: its header cannot be read", "download it again"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS", "git lfs pull"),
    ],
)
def test_weights_that_are_cut_off_or_damaged_are_told_by_their_sizes(
    copy: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str, remedy: str
) -> None:
    spoil(copy / "model.safetensors")
    with pytest.raises(InvalidInput, match=message) as caught:
        export(copy, tmp_path / "out")
    assert remedy in caught.value.remedy


def test_a_file_of_torch_that_is_cut_off_or_none_is_told_as_such(copy: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    binary = copy / "pytorch_model.bin"
    torch.save(load_file(copy / "model.safetensors"), binary)
    (copy / "model.safetensors").unlink()
    cut(binary, 5000)
    with pytest.raises(InvalidInput, match="cut off: it has 5,000 bytes"):
        export(copy, tmp_path / "cut")
    binary.write_bytes(b"garbage" * 100)
    with pytest.raises(InvalidInput, match=r"no file of torch\.save"):
        export(copy, tmp_path / "garbage")


def test_an_index_that_names_a_part_that_is_not_there(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(InvalidInput, match=r"lacks model-00002-of-00002\.safetensors"):
        export(copy, tmp_path / "out")


def test_missing_weights_are_told_from_those_of_another_shape(copy: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    drop_a_weight(copy)
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] = weights["encoder.layer.0.output.dense.weight"][:3].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    missing = "lacks 1 weight of its architecture: encoder.layer.1.output.dense.weight"
    other = r"has 1 weight in another shape: encoder.layer.0.output.dense.weight is \(3, \d+\) and should be \(32, \d+\)"
    with pytest.raises(InvalidInput, match=f"{missing}, and {other}"):
        export(copy, tmp_path / "out")


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def another_tokenizer(folder: Path) -> None:
    tiny_berts.tokenizer_of("roberta").save_pretrained(folder / "other")
    tokenizer = json.loads((folder / "other" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"extra{n}": 1000 + n for n in range(400)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def modules_of(*kinds: str, **config: object) -> Callable[[Path], None]:
    """A modules.json whose modules after the first all have that config.json."""
    names = [f"sentence_transformers.models.{kind}" for kind in kinds]
    listed = [(names[0], "", None), *((name, f"{n}_module", dict(config)) for n, name in enumerate(names[1:]))]
    return lambda folder: tiny_berts.write_modules(folder, listed)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: edit(folder / "config.json", model_type="gpt2"), "lacks .* among them"),  # a BERT's weights
        (lambda folder: edit(folder / "config.json", model_type="hallo"), "could not be read"),
        (lambda folder: edit(folder / "config.json", model_type="resnet"), "could not be read|lacks"),
        (lambda folder: edit(folder / "config.json", model_type=None), "no model_type"),
        (lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "net.Mine"}), "code of its own .*net.Mine"),
        (lambda folder: edit(folder / "config.json", num_hidden_layers=2), "layers that its config.json does not have"),
        (
            lambda folder: edit(folder / "config.json", intermediate_size=48),
            r"9 weights in other shapes.*intermediate\.dense\.\w+ is \(",
        ),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "could not be read"),
        (drop_a_weight, r"lacks 1 weight of .* encoder.layer.1.output.dense.weight"),
        (lambda folder: edit(folder / "config.json", vocab_size=50), r"word_embeddings.weight is .* should be \(50, 32\)"),
        *[
            (lambda folder, key=key, value=value: edit(folder / "config.json", **{key: value}), rf"{key} {value!r}, {fault}")
            for key, value, fault in (
                ("num_hidden_layers", 10**9, "and the weights have 3"),
                ("hidden_size", 10**9, "and the weights have 32"),
                ("vocab_size", 10**12, r"and the weights have \d+"),
                ("max_position_embeddings", 10**10, r"and the weights have \d+"),
                ("hidden_size", -32, "which is no whole number above 0"),
                ("hidden_size", "32", "which is no whole number above 0"),
                ("num_attention_heads", 0, "which is no whole number above 0"),
                ("num_hidden_layers", -1, "which is no whole number from 0 on"),
                ("hidden_act", "nosuch", "which transformers does not have"),
            )
        ],
        (another_tokenizer, "word table"),
        (no_tokenizer, "no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": 1}'), "tokenizer of copy cannot be read"),
        (lambda folder: edit(folder / "tokenizer.json", post_processor=None), "no special tokens"),
        (lambda folder: (folder / "modules.json").write_text('[{"idx": 0}]'), "no list of modules"),
        (lambda folder: tiny_berts.write_modules(folder, [("mine.Transformer", "", None)]), "code of its own .*mine.Transformer"),
        (modules_of("StaticEmbedding"), "does not begin with a Transformer"),
        (modules_of("Transformer", "LSTM"), "LSTM module"),
        (modules_of("Transformer", "Pooling", pooling_mode="median"), "unknown pooling"),
        (modules_of("Transformer", "Dense", in_features=7, out_features=3), "reads 7 numbers, and the pooling gives 32"),
        (modules_of("Transformer", "Dense", in_features=32, out_features=3), "no model.safetensors"),
        (modules_of("Transformer", "Dense", in_features=32, out_features=3, use_residual=True), "not a plain Dense"),
        (modules_of("Transformer", "Dense", in_features=32, out_features=-3), "out_features -3, which is no whole number"),
        (modules_of("Transformer", "Dense", in_features=32, out_features=10**12), "no model.safetensors"),
    ],
)
def test_a_folder_that_is_not_right_is_refused_with_the_reason(
    copy: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(copy)
    with pytest.raises(InvalidInput, match=message):
        export(copy, tmp_path / "out")


def test_sentence_pieces_without_their_library_are_refused_with_what_to_install(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork_plugins.bert.tokenizer_file.find_spec", lambda name: None)
    (copy / "tokenizer.json").rename(copy / "spiece.model")
    with pytest.raises(InvalidInput, match=r"spiece\.model is read by the sentencepiece package \(pip install sentencepiece"):
        export(copy, tmp_path / "out")


def test_what_says_nothing_of_features_is_left_out_of_the_definition(copy: Path) -> None:
    before = read_layout(copy).definition
    edit(copy / "config.json", hidden_dropout_prob=0.5, transformers_version="9", torch_dtype="float16", id2label={"0": "a"})
    assert read_layout(copy).definition == before
    edit(copy / "config.json", hidden_act="relu")
    assert read_layout(copy).definition != before


def test_a_nomic_with_its_old_code_is_read_where_transformers_computes_the_same(tmp_path: Path) -> None:
    config = {"model_type": "nomic_bert", "auto_map": {"AutoModel": "modeling_hf_nomic_bert.NomicBertModel"}}
    config |= {"n_embd": 768, "n_head": 12, "n_layer": 12, "rotary_emb_base": 1000, "prenorm": False}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert read_layout(tmp_path).architecture.checked
    for other in ({"rotary_emb_base": 10000}, {"rotary_scaling_factor": 2.0}, {"n_head": 16}, {"prenorm": True}):
        path.write_text(json.dumps(config | other))
        with pytest.raises(InvalidInput, match="code of its own"):
            read_layout(tmp_path)


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("model_type", "declared", "changes", "limit"),
    [
        ("qwen3", 131072, {"max_position_embeddings": 40960}, 8192),  # what attention takes of memory
        ("qwen3", 100, {"max_position_embeddings": 40960}, 100),
        ("qwen3", 131072, {"max_position_embeddings": 96}, 96),
        ("t5", int(1e30), {"n_positions": 64}, 64),
        ("xlnet", int(1e30), {}, 512),  # neither says anything
        ("xlnet", 200, {}, 200),
        # Beyond the length that a Phi-3 was first trained on all of a batch turns by other angles.
        (
            "phi3",
            131072,
            {"max_position_embeddings": 4096, "original_max_position_embeddings": 64, "rope_parameters": LONGROPE},
            64,
        ),
    ],
)
def test_the_limit_in_tokens(model_type: str, declared: int, changes: dict[str, Any], limit: int, tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", model_type, **changes)
    edit(source / "tokenizer_config.json", model_max_length=declared)
    assert prepare(source, tmp_path / "out").encoder._settings.max_tokens == limit


def test_a_setting_raises_and_lowers_the_limit_within_what_the_model_takes(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", "qwen3", max_position_embeddings=40960)
    for most in (9000, 50):
        assert prepare(source, tmp_path / f"{most}", max_tokens=most).encoder._settings.max_tokens == most
    for most in (40961, 2, "many"):
        with pytest.raises(InvalidInput, match=r"max_tokens .* 3 to 40960"):
            prepare(source, tmp_path / f"{most}", max_tokens=most)
