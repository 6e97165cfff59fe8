"""The video plugin without its nets: specs and adopted files, and from videos, arrays and flow to windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_videos import shades, write
from small_nets import as_on_the_hub, random_net
from topwork_plugins.i3d import flow as i3d_flow
from topwork_plugins.i3d import plugin as i3d
from topwork_plugins.i3d.plugin import InceptionEncoder, InflatedEncoder, VideoEncoder, WindowOptions, resolve_source
from topwork_plugins.images.preprocess import Recipe
from topwork_server import EncoderSpec, InvalidInput, Modality, Sample, SourceUri, VideoItem
from topwork_server.plugin_api import example_inputs, options
from topwork_server.types import Array

RECIPE = Recipe((32, 32), (36, 36), "center", "bilinear", (0.5,) * 3, (0.5,) * 3)


def encoder_of(folder: Path, kind: type[VideoEncoder], recipe: Recipe | None) -> VideoEncoder:
    """An encoder without its graph: preprocess needs none."""
    i3d._write_reader(folder, recipe)
    return kind(EncoderSpec("video", kind, f"file:{folder}", Modality.VIDEO), folder)


@pytest.fixture
def inflated(tmp_path: Path) -> VideoEncoder:
    return encoder_of(tmp_path, InflatedEncoder, RECIPE)


@pytest.fixture
def rgb(tmp_path: Path) -> VideoEncoder:
    return encoder_of(tmp_path, InceptionEncoder, i3d.INCEPTION_RECIPE)


@pytest.fixture
def flow(tmp_path: Path) -> VideoEncoder:
    return encoder_of(tmp_path, InceptionEncoder, None)


def samples(encoder: VideoEncoder, item: Any, **given: Any) -> list[Sample]:
    return list(encoder.preprocess(item, options.parse(encoder.options, given)))


def clips(found: list[Sample]) -> list[tuple[int, ...]]:
    return [sample.inputs["clips"].shape for sample in found]


def seconds(found: list[Sample]) -> Array:
    return np.array([sample.window for sample in found])


def numbers(sample: Sample) -> list[int]:
    """Which frames of `shades` are in a window that RECIPE prepared."""
    gray = (sample.inputs["clips"].mean((0, 2, 3)) * 0.5 + 0.5) * 255
    return [round((float(value) - 20) / 5) for value in gray]


def test_a_video_gives_a_row_a_window_with_its_seconds(inflated: VideoEncoder, tmp_path: Path) -> None:
    found = samples(inflated, VideoItem(write(tmp_path / "clip.mp4", shades(40))))
    assert clips(found) == [(3, 16, 32, 32)] * 3
    np.testing.assert_allclose(seconds(found), [(0, 0.64), (0.64, 1.28), (1.28, 1.6)], atol=2e-3)
    assert [dict(sample.notes) for sample in found] == [{}, {}, {"repeated_frames": 8}]
    assert [numbers(sample) for sample in found] == [list(range(16)), list(range(16, 32)), [*range(32, 40), *[39] * 8]]
    assert [inflated.cost(sample) for sample in found] == [16] * 3
    assert inflated.collate(found)["clips"].shape == (3, 3, 16, 32, 32)


def test_bytes_and_path_give_the_same(inflated: VideoEncoder, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.webm", shades(20))
    for a, b in zip(samples(inflated, VideoItem(path)), samples(inflated, VideoItem(path.read_bytes())), strict=True):
        np.testing.assert_array_equal(a.inputs["clips"], b.inputs["clips"])


def test_frames_stride_and_fps_choose_the_windows(inflated: VideoEncoder, tmp_path: Path) -> None:
    clip = VideoItem(write(tmp_path / "clip.mp4", shades(40)))
    found = samples(inflated, clip, frames=4, stride=2, fps=5.0)
    assert [numbers(sample) for sample in found] == [[0, 5, 10, 15], [10, 15, 20, 25], [20, 25, 30, 35]]
    np.testing.assert_allclose(seconds(found), [(0, 0.8), (0.4, 1.2), (0.8, 1.6)], atol=1e-6)
    found = samples(inflated, clip, frames=8, stride=30)
    assert [numbers(sample) for sample in found] == [list(range(8)), list(range(30, 38))]
    np.testing.assert_allclose(seconds(found), [(0, 0.32), (1.2, 1.52)], atol=2e-3)


def test_the_last_window_may_be_left_out(inflated: VideoEncoder) -> None:
    clip = np.stack(shades(10))
    assert clips(samples(inflated, clip, frames=8)) == [(3, 8, 32, 32)] * 2
    assert clips(samples(inflated, clip, frames=8, drop_last=True)) == [(3, 8, 32, 32)]
    assert samples(inflated, clip, drop_last=True)[0].notes == {"repeated_frames": 6}  # shorter than one window


def test_an_array_is_a_clip_of_25_frames_a_second_or_as_said(inflated: VideoEncoder) -> None:
    clip = np.stack(shades(16))
    np.testing.assert_allclose(seconds(samples(inflated, clip)), [(0, 0.64)])
    np.testing.assert_allclose(seconds(samples(inflated, clip, fps=10.0)), [(0, 1.6)])
    assert numbers(samples(inflated, clip, fps=10.0)[0]) == list(range(16))  # its rate: no frame is left out


def test_frames_are_prepared_as_pictures_are(inflated: VideoEncoder) -> None:
    from PIL import Image

    clip = example_inputs.clips(frames=4, size=100)[0]
    [sample] = samples(inflated, clip, frames=4)
    for t in range(4):
        np.testing.assert_array_equal(sample.inputs["clips"][:, t], RECIPE.prepare(Image.fromarray(clip[t]))[0])


def test_inception_reads_rgb_from_minus_one_to_one(rgb: VideoEncoder) -> None:
    clip = np.zeros((16, 300, 400, 3), np.uint8)
    clip[:, :, 200:] = 255
    [sample] = samples(rgb, clip)
    pixels = sample.inputs["clips"]
    assert pixels.shape == (3, 16, 224, 224)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert pixels[:, :, :, :111].max() < -0.99 < 0.99 < pixels[:, :, :, 113:].min()


@pytest.mark.parametrize("frames", [8, 12, 20])
def test_inception_refuses_windows_that_it_cannot_take(rgb: VideoEncoder, frames: int) -> None:
    with pytest.raises(InvalidInput, match=f"windows of {frames} frames") as caught:
        samples(rgb, np.zeros((32, 30, 40, 3), np.uint8), frames=frames)
    assert caught.value.remedy == "ask for a multiple of 8, at least 16"


def test_an_inflated_net_refuses_odd_windows(inflated: VideoEncoder) -> None:
    with pytest.raises(InvalidInput, match="windows of 7 frames"):
        samples(inflated, np.zeros((32, 30, 40, 3), np.uint8), frames=7)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"frames": 0}, r"frames is 0 \(give 2 to 512"),
        ({"frames": 514}, "frames is 514"),
        ({"frames": 16.5}, "'frames' is 16.5"),
        ({"stride": -1}, "stride is -1"),
        ({"fps": -5.0}, r"fps is -5.0 \(give 0 to 240"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": 1e9}, "fps is 1000000000.0"),
        ({"drop_last": 1}, "'drop_last' is 1"),
        ({"window": 16}, "unknown option 'window'"),
    ],
)
def test_options_out_of_range_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        options.parse(WindowOptions, given)


def test_options_are_described() -> None:
    assert all(choice.description for choice in options.choices(WindowOptions))


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((16, 30, 40, 2), np.float32),
        np.zeros((16, 30, 40), np.uint8),
        np.array(1.0),
        VideoItem(b""),
        VideoItem(b"no video" * 99),
    ],
)
def test_bad_clips_are_refused(rgb: VideoEncoder, item: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        samples(rgb, item)
    assert caught.value.remedy


def panned(dx: int, dy: int, frames: int = 17) -> Array:
    """(frames, 256, 256, 3): a photograph that moves by so many pixels a frame to the right and down."""
    photograph = np.asarray(example_inputs._photograph())
    x, y = (photograph.shape[1] - 256) // 2, (photograph.shape[0] - 256) // 2
    shift = [(t - frames // 2) for t in range(frames)]
    return np.stack([photograph[y - dy * s : y - dy * s + 256, x - dx * s : x - dx * s + 256] for s in shift])


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-4, 1)])
def test_flow_of_a_pan_is_the_pan(flow: VideoEncoder, dx: int, dy: int) -> None:
    [sample] = samples(flow, panned(dx, dy))  # 17 frames, 16 flows
    found = sample.inputs["clips"]
    assert found.shape == (2, 16, 224, 224)
    assert found.dtype == np.float32
    assert not sample.notes
    np.testing.assert_allclose(np.median(found, axis=(2, 3)) * 20, np.array([[dx] * 16, [dy] * 16]), atol=0.1)
    assert sample.window == pytest.approx((0, 0.64))


def test_flow_of_a_video_file(flow: VideoEncoder, tmp_path: Path) -> None:
    path = write(tmp_path / "pan.mp4", panned(3, 0))
    [sample] = samples(flow, VideoItem(path))
    np.testing.assert_allclose(np.median(sample.inputs["clips"], axis=(1, 2, 3)) * 20, [3, 0], atol=0.2)


def test_sixteen_frames_make_fifteen_flows_and_one_repeated(flow: VideoEncoder) -> None:
    [sample] = samples(flow, panned(2, 0)[:16])
    assert sample.notes == {"repeated_frames": 1}
    np.testing.assert_array_equal(sample.inputs["clips"][:, 14], sample.inputs["clips"][:, 15])


def test_one_frame_has_no_flow(flow: VideoEncoder) -> None:
    with pytest.raises(InvalidInput, match="one frame has no flow"):
        samples(flow, panned(1, 0)[:1])


def test_a_flow_volume_is_clipped_scaled_and_resized(flow: VideoEncoder) -> None:
    volume = np.zeros((16, 128, 160, 2), np.float32)
    volume[..., 0], volume[..., 1] = 5, -30
    [sample] = samples(flow, volume)
    found = sample.inputs["clips"]
    assert found.shape == (2, 16, 224, 224)
    np.testing.assert_allclose(found[0], 10 / 20)  # twice as large a picture: twice as many pixels
    np.testing.assert_allclose(found[1], -1)
    np.testing.assert_allclose(samples(flow, np.repeat(volume, 2, 1).repeat(2, 2))[0].inputs["clips"][0], 5 / 20)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (np.full((16, 30, 40, 2), np.nan, np.float32), "not finite"),
        (np.zeros((16, 30, 40, 2), np.float64), "float64"),
        (np.zeros((30, 40, 2), np.float32), r"\(30, 40, 2\)"),
        (np.zeros((0, 30, 40, 2), np.float32), "no frames"),
        (np.array(1.0), r"\(\) of float64"),
    ],
)
def test_bad_flow_is_refused(flow: VideoEncoder, item: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        samples(flow, item)


def adopted(path: Path | str, family: str = "") -> EncoderSpec | None:
    return resolve_source("mine", SourceUri.parse(f"file:{path}" if isinstance(path, Path) else path, family))


@pytest.mark.parametrize("suffix", ["pt", "pth", "old.pt", "safetensors"])
def test_checkpoints_of_inception_are_known_by_their_keys(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"weights.{suffix}"
    state = {"Conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 3, 7, 7, 7), "a.weight": torch.zeros(9)}
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization="old" not in suffix)
    spec = adopted(path)
    assert spec is not None
    assert spec.encoder is InceptionEncoder
    assert spec.source == f"file:{path}"
    assert adopted(path, "bert") is None


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(9)}, tmp_path / "resnet.pt")
    assert adopted(tmp_path / "resnet.pt") is None
    assert adopted(tmp_path / "nowhere.pt") is None
    assert adopted("timm:resnet18") is None
    assert adopted("hf:bert-base-uncased") is None


def test_the_family_s_name_inflates_a_picture_net(tmp_path: Path) -> None:
    folder = as_on_the_hub(random_net("test_resnet"), tmp_path / "net")
    for source in (folder, "timm:resnet18.a1_in1k"):
        spec = adopted(source, "i3d")
        assert spec is not None
        assert spec.encoder is InflatedEncoder
        assert spec.modality is Modality.VIDEO
    assert json.loads((folder / "config.json").read_text())["architecture"] == "test_resnet"


def test_registered_specs_say_that_they_never_saw_video() -> None:
    for spec in i3d.register_encoders():
        assert "never on video" in spec.trained_on
        assert spec.default_tap in {tap.name for tap in spec.taps}
        assert spec.sha256
        assert spec.license != "not said"


def test_the_plugin_is_light_to_import() -> None:
    import subprocess
    import sys

    heavy = "torch timm av cv2 PIL onnx onnxruntime".split()
    code = f"import sys, topwork_plugins.i3d.plugin; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_flow_means_is_in_the_fingerprint(tmp_path: Path) -> None:
    assert i3d._write_reader(tmp_path, None) == i3d_flow.MEANING
    assert i3d._write_reader(tmp_path, RECIPE) == RECIPE.json()
