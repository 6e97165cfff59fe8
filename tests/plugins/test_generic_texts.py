"""Architectures of transformers that no test compares tap by tap: adopted where their graph is their network and no row changes
with its batch, and refused with the reason where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from tiny_berts import DIM, export, numpy_poolings, transformers_outputs
from topwork_plugins.bert.architectures import CHECKED
from topwork_server import InvalidInput, TextItem
from topwork_server.errors import ExportFailed

TEXTS = ["A small bird sings.", "Bread", "The train to the coast leaves at seven, and the last carriage is the quiet one."]
ITEMS = [TextItem(text) for text in TEXTS]
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("model_type", "first", "changes"),
    [
        ("roformer", "cls", {}),
        ("rembert", "cls", {"input_embedding_size": 16}),
        ("eurobert", "cls", GROUPED),
        ("olmo2", "last", GROUPED),
        ("squeezebert", "cls", {"embedding_size": DIM}),  # it calls its pooler unasked
        ("gptj", "last", {"n_embd": DIM, "n_layer": 2, "n_head": 4, "n_positions": 96, "rotary_dim": 4}),
    ],
)
def test_an_architecture_without_tests_is_adopted_and_says_so(
    model_type: str, first: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert model_type not in CHECKED
    exported = export(tiny_berts.write(tmp_path / "model", model_type, **changes), tmp_path / "out")
    taps = [info.tap for info in exported.manifest.taps]
    assert [tap.name for tap in taps] == ["pooled", "tokens", first, "mean"]
    assert "generic" in taps[0].description
    ours, (theirs, mask) = exported.embed(ITEMS), transformers_outputs(exported.source, ITEMS)
    expected = numpy_poolings(theirs["tokens"], mask)
    assert np.allclose(ours["tokens"] * mask[..., None], theirs["tokens"] * mask[..., None], atol=2e-4)
    assert np.allclose(ours[first], expected["lasttoken" if first == "last" else first], atol=2e-4)
    assert np.allclose(ours["mean"], expected["mean"], atol=2e-4)
    alone = exported.embed(ITEMS[1:2])
    assert np.allclose(alone["mean"], ours["mean"][1:2], atol=2e-4)


def test_of_any_encoder_decoder_the_encoder_is_taken(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    halves = {
        f"{half}_{name}": count for half in ("encoder", "decoder") for name, count in (("layers", 2), ("attention_heads", 4))
    }
    source = tiny_berts.write(tmp_path / "model", "bart", d_model=DIM, encoder_ffn_dim=64, decoder_ffn_dim=64, **halves)
    exported = export(source, tmp_path / "out")
    [sample] = exported.samples(ITEMS[:1])
    with torch.no_grad():
        ids = torch.from_numpy(sample.inputs["input_ids"])[None]
        theirs = AutoModel.from_pretrained(source).eval().get_encoder()(ids).last_hidden_state
    assert np.allclose(exported.run([sample])["tokens"], theirs.numpy(), atol=2e-4)


def test_rows_that_change_with_their_batch_are_refused(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", "nystromformer")
    with pytest.raises(ExportFailed, match="share a batch"):
        export(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("mixtral", {"num_local_experts": 4}, "no ONNX graph"),
        ("glm", {"head_dim": 8}, "no ONNX graph"),
        ("cohere", {}, "ONNX Runtime does not take"),
    ],
)
def test_what_has_no_graph_is_refused(model_type: str, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", model_type, **GROUPED, **changes)
    with pytest.raises(ExportFailed, match=reason) as caught:
        export(source, tmp_path / "out")
    assert f"architecture {model_type}" in caught.value.message


def test_what_gives_no_row_for_a_token_is_refused(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", "vit", image_size=32, patch_size=16)
    with pytest.raises(InvalidInput, match="no row for each token"):
        export(source, tmp_path / "out")


def test_a_graph_of_one_length_alone_is_refused_by_its_architecture(tmp_path: Path) -> None:
    """Funnel halves the tokens of a text, and needs more than two of them to be tried at all."""
    sizes = {"d_model": DIM, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1]}
    source = tiny_berts.write(tmp_path / "model", "funnel", architectures=["FunnelModel"], **sizes)
    with pytest.raises(ExportFailed, match="other shapes") as caught:
        export(source, tmp_path / "out")
    assert "architecture funnel" in caught.value.message


def test_a_network_that_fails_on_a_text_is_refused_by_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import RoFormerModel

    source = tiny_berts.write(tmp_path / "model", "roformer")
    forward = RoFormerModel.forward

    def fails_on_long(self: Any, input_ids: Any, **given: Any) -> Any:
        if input_ids.shape[1] > longest:
            raise KeyError("of its own")
        return forward(self, input_ids, **given)

    monkeypatch.setattr(RoFormerModel, "forward", fails_on_long)
    for longest, kind in ((2, InvalidInput), (20, ExportFailed)):  # while it is tried, and on the examples
        with pytest.raises(kind, match="KeyError: 'of its own'") as caught:
            export(source, tmp_path / str(longest))
        assert "roformer" in caught.value.message.lower()
