"""Detection against a real server: boxes in metadata, a head on a toy encoder's cells, what it finds, its report, its file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import real_server
import sets_harness
import topwork
import toy_pictures
from cli_command import Command
from PIL import Image

COUNT = 40
QUICK = {"epochs": 50, "width": 16, "layers": 1, "dropout": 0.0, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    sets_harness.export(home, [toy_pictures.spec()])
    plugins = real_server.ToyEncoders()
    plugins.specs = [toy_pictures.spec()]
    with real_server.served(home, plugins) as address:
        yield address


@dataclass
class Trained:
    client: topwork.Client
    target: str
    head: topwork.HeadInfo
    pictures: list[bytes]
    boxes: list[list[str]]


@pytest.fixture(scope="module")
def trained(target: str) -> Iterator[Trained]:
    """A head of forty scenes."""
    with topwork.Client(target) as client:
        pictures, boxes = toy_pictures.scenes(COUNT)
        write(client, "scenes", pictures, boxes)
        head = client.train("scenes", target="boxes", task="detection", taps=["cells"], options=QUICK, folds=2)
        yield Trained(client, target, head, pictures, boxes)


def write(client: topwork.Client, name: str, pictures: list[bytes], boxes: list[list[str] | None]) -> None:
    ids = [f"p{i:02d}" for i in range(len(pictures))]
    metadata = {"boxes": boxes}
    client.write(name, pictures, ids, metadata, encoder="patches", taps=["cells", "coarse", "pooled"], keep_inputs=True)


def found_share(predictions: topwork.Predictions, boxes: list[list[str]]) -> float:
    """The share of true boxes that a box of their label overlaps by more than half."""
    hits = []
    for prediction, written in zip(predictions, boxes, strict=True):
        for one in written:
            corners, label = one.split(":")
            mine = [d.box for d in prediction.detections or () if d.label == label]
            hits.append(any(overlap(box, [float(edge) for edge in corners.split(",")]) > 0.5 for box in mine))
    return float(np.mean(hits))


def overlap(a: tuple[float, ...], b: list[float]) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(0.0, width) * max(0.0, height)
    return shared / (sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared)


def test_a_head_finds_shapes(trained: Trained) -> None:
    head = trained.head
    assert (head.task, head.kind, head.names, head.labeled) == ("detection", "fcos", ("ball", "sky"), COUNT)
    assert [metric.name for metric in head.metrics] == ["mAP", "mAP at .5", "box F1", "AP of ball", "AP of sky"]
    assert head.metrics[1].value > 0.6 > head.baseline[1].value
    assert head.metric.low < head.metric.value < head.metric.high
    assert head.max_abs_error < 1e-4
    pictures, boxes = toy_pictures.scenes(20, seed=1)
    found = trained.client.predict(head.name, pictures)
    assert found_share(found, boxes) > 0.5
    first = next(one for one in found if one.detections).detections[0]
    assert first.label in head.names
    assert head.chosen["min_score"] <= first.score <= 1
    assert 0 <= first.box[0] < first.box[2] <= 64


def test_stored_items_give_the_same_boxes(trained: Trained) -> None:
    ids = [f"p{i:02d}" for i in range(5)]
    stored = trained.client.predict(trained.head.name, set="scenes", ids=ids)
    sent = trained.client.predict(trained.head.name, trained.pictures[:5])
    for one, other in zip(stored, sent, strict=True):
        assert [d.label for d in one.detections] == [d.label for d in other.detections]
        for a, b in zip(one.detections, other.detections, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=1e-3)


def test_scores_and_numbers_of_boxes_are_asked_for(trained: Trained) -> None:
    client, name, pictures = trained.client, trained.head.name, trained.pictures[:6]
    every = client.predict(name, pictures, min_score=0.0, max_overlap=1.0, max_boxes=1000)
    assert {len(one.detections) for one in every} == {2 * toy_pictures.GRID**2}
    few = client.predict(name, pictures, min_score=0.0, max_boxes=3)
    assert [len(one.detections) for one in few] == [3] * 6
    assert all(one.detections[0] == other.detections[0] for one, other in zip(few, every, strict=True))
    apart = client.predict(name, pictures, min_score=0.0, max_overlap=0.0, max_boxes=1000)
    for one in apart:
        mine = [d for d in one.detections if d.label == "ball"]
        assert all(overlap(a.box, list(b.box)) == 0 for i, a in enumerate(mine) for b in mine[:i])
    assert sum(len(one.detections) for one in client.predict(name, pictures, min_score=1.0)) == 0
    with pytest.raises(topwork.InvalidInput, match="min_score = 2"):
        client.predict(name, pictures, min_score=2.0)
    with pytest.raises(topwork.InvalidInput, match="max_overlap = -1"):
        client.predict(name, pictures, max_overlap=-1.0)
    with pytest.raises(topwork.InvalidInput, match="max_boxes = 1,001"):
        client.predict(name, pictures, max_boxes=1001)


def test_a_bad_item_is_skipped(trained: Trained) -> None:
    found = trained.client.predict(trained.head.name, [b"no picture", *trained.pictures[:2]], skip_bad_items=True)
    assert list(found.failures) == [0]
    assert found[0].error
    alone = trained.client.predict(trained.head.name, trained.pictures[:2])
    assert [one.detections for one in found][1:] == [one.detections for one in alone]


def test_the_report_draws_held_out_pictures(trained: Trained) -> None:
    report = trained.client.report(trained.head.name)
    assert len(report.pictures) == 20
    assert report.learning_curve
    assert [one.name for one in report.classes] == ["ball", "sky"]
    for picture in report.pictures:
        written = trained.boxes[int(picture.id[1:])]
        assert (picture.width, picture.height) == (64, 48)
        assert [topwork.box(*one.box, one.label) for one in picture.truth] == written
        assert picture.shown.startswith("data:image/jpeg;base64,")
    page = trained.client.report_page(trained.head.name)
    assert page.count("<image ") == 20
    assert page.count('class="box truth"') == sum(len(picture.truth) for picture in report.pictures)


def test_the_exported_file_gives_the_cells(trained: Trained, tmp_path: Path) -> None:
    about = trained.client.export_head(trained.head.name, tmp_path / "whole.onnx")
    assert about["grid"] == [8, 8]
    assert "distances" in about["how_to_read"]
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    scores, probabilities = session.run(None, {"pixels": pixels})
    assert scores.shape == probabilities.shape == (2, 64, 2 + 4)
    assert probabilities[..., :2].max() < 1
    np.testing.assert_array_equal(scores[..., 2:], probabilities[..., 2:])


def test_the_command_line(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(trained.pictures[0])
    command, asked = Command(trained.target, capsys), ("predict", trained.head.name, tmp_path / "a.png", "--min-score", "0")
    found = command.json(*asked, "--max-boxes", "2")["detections"]
    assert len(found) == 2
    assert set(found[0]) == {"label", "score", "box"}
    assert command(*asked) == 0
    assert f"{found[0]['label']} {found[0]['score']:.3f} at " in command.stdout
    assert command(*asked, "-o", tmp_path / "found.csv") == 0
    assert "detections" in (tmp_path / "found.csv").read_text()


FEW_STEPS = {"epochs": 2, "width": 8, "layers": 1}


def test_boxes_that_leave_their_pictures(target: str) -> None:
    with topwork.Client(target) as client:
        pictures, boxes = toy_pictures.scenes(12, seed=3)
        reaching = [["-5,10,20,60:ball"], *boxes[1:6], None, *boxes[7:]]
        write(client, "reaching", pictures, reaching)
        head = client.train("reaching", target="boxes", kind="fcos", taps=["cells"], options=FEW_STEPS, folds=2)
        assert (head.task, head.labeled, head.unlabeled) == ("detection", 11, 1)
        assert any("1 box reaches out" in warning and "'p00'" in warning for warning in head.warnings), head.warnings
        client.update("reaching", ["p03"], {"boxes": [["70,10,90,20:ball"]]})
        with pytest.raises(topwork.JobFailed, match=r"'p03'.*70,10,90,20.*outside.*64 x 48") as failed:
            client.train("reaching", target="boxes", kind="fcos", taps=["cells"], name="outside")
        assert "pixels of the picture" in str(failed.value)
        client.update("reaching", ["p03"], {"boxes": [["1,1,9,9:sky"] * 65]})
        with pytest.raises(topwork.JobFailed, match=r"'p03'.*65 boxes.*64 cells"):
            client.train("reaching", target="boxes", kind="fcos", taps=["cells"], name="many")
        assert [one.name for one in client.heads() if one.name in ("outside", "many") and one.state == "ready"] == []


@pytest.mark.parametrize(
    ("change", "asked", "pattern"),
    [
        ([["20,1,10,9:ball"]], {}, "'p00'.*20,1,10,9:ball.*empty"),
        ([["1,2,3:ball"]], {}, "'p00'.*is not a box"),
        ([["1,1,9,9:"]], {}, "'p00'.*has no label"),
        ([["1,1,9,9:newt"]], {}, "'newt' has 1 example"),
        (None, {"taps": ["pooled"]}, "detection needs a row for each cell.*'pooled'"),
        (None, {"taps": ["cells"], "poolings": ["mean"]}, "pooling 'mean'"),
        (None, {"kind": "linear"}, "linear does not learn detection"),
        (None, {"task": "segmentation", "kind": "fcos"}, "fcos does not learn segmentation"),
        (None, {"unlabeled": "self-training"}, "self-training is for classes"),
        (None, {"options": {"epoch": 3}}, "epoch"),
    ],
)
def test_what_cannot_be_learned_is_refused(trained: Trained, change: list[list[str]] | None, asked: dict, pattern: str) -> None:
    client = trained.client
    client.update("scenes", ["p00"], {"boxes": change or [trained.boxes[0]]})
    with pytest.raises(topwork.InvalidInput, match=pattern) as refused:
        client.train("scenes", target="boxes", name="refused", **{"task": "detection", "taps": ["cells"], **asked})
    assert refused.value.remedy
    client.update("scenes", ["p00"], {"boxes": [trained.boxes[0]]})


def test_vectors_are_refused(trained: Trained) -> None:
    with pytest.raises(topwork.InvalidInput, match="where it lies"):
        trained.client.predict(trained.head.name, vectors=np.zeros((64, 12), np.float32))


def test_pictures_without_any_box_teach_nothing(target: str) -> None:
    with topwork.Client(target) as client:
        pictures, _ = toy_pictures.scenes(4)
        write(client, "empty", pictures, [[]] * 4)
        with pytest.raises(topwork.InvalidInput, match="all 4 labels are empty"):
            client.train("empty", target="boxes", task="detection", taps=["cells"])


def test_several_taps_are_compared_or_read_side_by_side(target: str, tmp_path: Path) -> None:
    with topwork.Client(target) as client:
        pictures, boxes = toy_pictures.scenes(12, seed=4)
        write(client, "several", pictures, boxes)
        asked = {"target": "boxes", "task": "detection", "options": FEW_STEPS, "folds": 2}
        table = client.probe("several", **asked)
        assert (table.measure, sorted(row.tap for row in table)) == ("mAP", ["cells", "coarse"])
        with pytest.raises(topwork.InvalidInput, match=r"'coarse' and 'cells'.*other cells"):
            client.train("several", taps=["coarse", "cells"], **asked)
        head = client.train("several", taps=["coarse", "cells"], combine=True, **asked)
        assert (head.tap, head.pooling) == ("cells+coarse", "rows")
        found = client.predict(head.name, pictures[:3], min_score=0.0, max_overlap=1.0, max_boxes=1000)
        assert {len(one.detections) for one in found} == {2 * toy_pictures.GRID**2}
        stored = client.predict(head.name, set="several", ids=["p01"], min_score=0.0, max_boxes=5)
        for one, other in zip(stored[0].detections, found[1].detections, strict=False):
            np.testing.assert_allclose(one.box, other.box, atol=1e-3)
        client.export_head(head.name, tmp_path / "both.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "both.onnx", providers=["CPUExecutionProvider"])
        picture = np.asarray(Image.open(io.BytesIO(pictures[1])).resize((32, 32)), np.float32).transpose(2, 0, 1) / 255
        probabilities = session.run(["probabilities"], {"pixels": picture[None]})[0][0]
        assert probabilities.shape == (64, 6)
        surest = max(found[1].detections, key=lambda one: one.score)
        assert probabilities[:, :2].max() == pytest.approx(surest.score, abs=1e-4)


def test_annotations_of_coco_become_boxes(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    found = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "owl"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [10, 20.5, 30, 40]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 90, 90], "iscrowd": 1},
        ],
    }
    path.write_text(json.dumps(found))
    assert topwork.coco_boxes(path) == {"a.jpg": ["10,20.5,40,60.5:owl"], "b.jpg": []}
    path.write_text('{"images": [{}]}')
    with pytest.raises(topwork.InvalidInput, match="COCO"):
        topwork.coco_boxes(path)
    path.write_text(json.dumps({**found, "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]}))
    with pytest.raises(topwork.InvalidInput, match="COCO"):
        topwork.coco_boxes(path)
