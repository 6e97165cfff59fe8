"""Fine-tuning on tiny random trunks: every target and kind of row, what stays, what is refused; MiniLM's real weights, marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import fine_tuning_tasks
import numpy as np
import pytest
import torch
from fine_tuning_tasks import TunableEncoder, check_served, refusal
from safetensors.torch import load_file
from topwork_plugins.bert.plugin import BertEncoder, register_encoders
from topwork_plugins.fine_tune.loop import TrainingLoop
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.plugin import FineTune, FineTuneOptions, register_trainers
from topwork_server import EncoderSpec, FineTuneDataset, FineTuneResult, Target, TextItem, Trunk
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api.trainer import ROW_TARGETS
from topwork_server.types import Array


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TunableEncoder:
    tunable = fine_tuning_tasks.bert(tmp_path_factory.mktemp("bert"))
    tunable.trunk()
    return tunable


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> TunableEncoder:
    return fine_tuning_tasks.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> TunableEncoder:
    return fine_tuning_tasks.videos(tmp_path_factory.mktemp("videos"))


def check(tunable: TunableEncoder, dataset: FineTuneDataset, task: Task, tuned: FineTuneResult, floor: float) -> None:
    """It learned, and what is served of it predicts what torch predicted."""
    losses = [entry["loss"] for entry in tuned.history]
    assert losses[-1] < 0.9 * losses[0]
    assert max(entry["score"] for entry in tuned.history) >= floor
    check_served(tunable, dataset, task, tuned)


@pytest.mark.parametrize(("model_type", "adapter"), [("gpt2", "none"), ("gpt2", "lora"), ("t5", "none"), ("longformer", "none")])
def test_trunks_of_other_architectures_learn(model_type: str, adapter: str, tmp_path: Path) -> None:
    """A decoder, one that shares a table between two modules, and one whose attention is not transformers' own."""
    other = fine_tuning_tasks.bert(tmp_path, model_type=model_type)
    dataset = fine_tuning_tasks.of_texts(other)
    check(other, dataset, Task.CLASSIFICATION, other.tune(dataset, tmp_path / "tuned", epochs=12, adapter=adapter), 1.0)


@pytest.mark.parametrize(
    ("tap", "how"),
    [("pooled", "row"), ("tokens", "mean"), ("hidden.2", "max"), ("hidden.1", "mean+std"), ("tokens", "pair")],
)
def test_texts_are_told_apart_with_every_pooling(bert: TunableEncoder, tmp_path: Path, tap: str, how: str) -> None:
    dataset = fine_tuning_tasks.of_texts(bert, tap, how)
    check(bert, dataset, Task.CLASSIFICATION, bert.tune(dataset, tmp_path, epochs=15), 1.0)


@pytest.mark.parametrize(
    ("make", "task", "floor"),
    [
        (fine_tuning_tasks.of_many_labels, Task.MULTI_LABEL, 0.8),
        (fine_tuning_tasks.of_numbers, Task.REGRESSION, 0.7),
        (fine_tuning_tasks.of_tokens, Task.TAGGING, 0.8),
        (fine_tuning_tasks.of_answers, Task.QUESTION_ANSWERING, 0.95),
    ],
)
def test_every_target_is_learned(
    bert: TunableEncoder, tmp_path: Path, make: Callable[[TunableEncoder], FineTuneDataset], task: Task, floor: float
) -> None:
    dataset = make(bert)
    check(bert, dataset, task, bert.tune(dataset, tmp_path, epochs=20, patience=0), floor)


@pytest.mark.parametrize(("tap", "how"), [("pooled", "row"), ("layer3", "mean"), ("layer2", "max")])
def test_pictures_are_told_apart(pictures: TunableEncoder, tmp_path: Path, tap: str, how: str) -> None:
    dataset = fine_tuning_tasks.of_pictures(pictures, tap, how)
    check(pictures, dataset, Task.CLASSIFICATION, pictures.tune(dataset, tmp_path, epochs=8), 1.0)


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize(("tap", "how"), [("pooled", "row"), ("cls", "row"), ("patches", "mean"), ("block.1", "max")])
def test_vision_transformers_learn_above_their_frozen_blocks(
    library: Literal["timm", "transformers"], tap: str, how: str, tmp_path: Path
) -> None:
    tunable = fine_tuning_tasks.transformer(tmp_path, library)
    dataset = fine_tuning_tasks.of_pictures(tunable, tap, how)
    tuned = tunable.tune(dataset, tmp_path / "tuned", epochs=8, frozen_blocks=1)
    check(tunable, dataset, Task.CLASSIFICATION, tuned, 1.0)
    blocks, found = tunable.trunk().blocks, changed(tunable, tuned)
    moved = {i for i, block in enumerate(blocks) if any(name.startswith(tuple(block)) for name in found)}
    assert moved == ({1} if tap == "block.1" else {1, 2})


def test_cells_are_told_apart(pictures: TunableEncoder, tmp_path: Path) -> None:
    dataset = fine_tuning_tasks.of_cells(pictures)
    check(pictures, dataset, Task.SEGMENTATION, pictures.tune(dataset, tmp_path), 0.95)


@pytest.mark.parametrize("how", ["mean", "max", "mean+std"])
def test_videos_of_several_windows_are_told_apart(videos: TunableEncoder, tmp_path: Path, how: str) -> None:
    dataset = fine_tuning_tasks.of_videos(videos, how)
    check(videos, dataset, Task.CLASSIFICATION, videos.tune(dataset, tmp_path, batch=2), 1.0)


def state(trunk: Trunk) -> dict[str, torch.Tensor]:
    assert trunk.module is not None
    return trunk.module.state_dict()


def changed(tunable: TunableEncoder, tuned: FineTuneResult) -> set[str]:
    before, after = state(tunable.trunk()), load_file(tuned.weights)
    assert before.keys() == after.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_frozen_blocks_stay_bit_by_bit_and_the_others_learn(bert: TunableEncoder, tmp_path: Path) -> None:
    blocks = bert.trunk().blocks
    dataset = fine_tuning_tasks.of_texts(bert)
    for frozen in (0, 2, 3):
        found = changed(bert, bert.tune(dataset, tmp_path, epochs=1, frozen_blocks=frozen))
        moved = {i for i, block in enumerate(blocks) if any(name.startswith(tuple(block)) for name in found)}
        assert moved == set(range(frozen, len(blocks)))
    assert not changed(bert, bert.tune(dataset, tmp_path, epochs=1, frozen_blocks=-1, learning_rate=None))
    assert "has 4 blocks" in refusal(lambda: bert.tune(dataset, tmp_path, frozen_blocks=5))


@pytest.mark.parametrize("options", [{}, {"target_modules": "query,value", "frozen_blocks": 2}])
def test_an_adapter_of_texts_is_small_and_learns(bert: TunableEncoder, tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = fine_tuning_tasks.of_texts(bert)
    tuned = bert.tune(dataset, tmp_path, adapter="lora", rank=2, epochs=15, learning_rate=1e-2, **options)
    check(bert, dataset, Task.CLASSIFICATION, tuned, 1.0)
    figures = tuned.head.chosen
    assert tuned.weights.stat().st_size == figures["adapter_bytes"] < figures["trunk_bytes"]
    layers = {name.rpartition(".lora_")[0].removeprefix("model.") for name in load_file(tuned.weights)}
    assert len(layers) == figures["adapted_layers"]
    blocks = bert.trunk().blocks[options.get("frozen_blocks", 1) :]
    assert all(any(name.startswith(tuple(block)) for block in blocks) for name in layers)
    if options:
        assert {name.rpartition(".")[2] for name in layers} == {"query", "value"}


def test_an_adapter_of_pictures_is_of_convolutions(pictures: TunableEncoder, tmp_path: Path) -> None:
    dataset = fine_tuning_tasks.of_pictures(pictures)
    tuned = pictures.tune(dataset, tmp_path, adapter="lora", rank=2, epochs=8, learning_rate=1e-2)
    check(pictures, dataset, Task.CLASSIFICATION, tuned, 1.0)
    assert all(value.ndim == 4 for value in load_file(tuned.weights).values())


def test_adapters_that_cannot_be_are_refused(bert: TunableEncoder, tmp_path: Path) -> None:
    def refused(**options: Any) -> str:
        return refusal(lambda: bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, adapter="lora", **options))

    assert "'qkv'" in refused(target_modules="query,qkv")
    assert "frozen_blocks is -1" in refused(frozen_blocks=-1)
    assert "reinitialize" in refused(reinitialize=1)


def test_blocks_above_the_tap_stay_as_they_are(bert: TunableEncoder, tmp_path: Path) -> None:
    tuned = bert.tune(fine_tuning_tasks.of_texts(bert, "hidden.1", "mean"), tmp_path, epochs=1)
    assert all(".layer.1." not in name and ".layer.2." not in name for name in changed(bert, tuned))
    assert tuned.head.chosen["trained_blocks"] == 2


def test_batch_norms_keep_their_statistics(pictures: TunableEncoder, tmp_path: Path) -> None:
    found = changed(pictures, pictures.tune(fine_tuning_tasks.of_pictures(pictures), tmp_path, epochs=1))
    assert "net.bn1.weight" in found
    assert not [name for name in found if "running" in name or "tracked" in name]


def test_restarted_blocks_differ_from_the_first_step_on(bert: TunableEncoder, tmp_path: Path) -> None:
    """With a rate of 0 nothing else can have changed."""
    still = {"learning_rate": 0.0, "epochs": 1, "weight_decay": 0.0}
    found = changed(bert, bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, reinitialize=1, **still))
    assert found
    assert all(".layer.2." in name for name in found)
    assert not changed(bert, bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, **still))
    whole = changed(bert, bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, reinitialize=4, **still))
    assert whole == set(dict(bert.trunk().module.named_parameters()))  # type: ignore[union-attr]
    assert "4 blocks learn" in refusal(lambda: bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, reinitialize=5))


def test_nets_with_batch_norms_are_not_restarted(pictures: TunableEncoder, tmp_path: Path) -> None:
    assert "batch norms" in refusal(lambda: pictures.tune(fine_tuning_tasks.of_pictures(pictures), tmp_path, reinitialize=1))


def test_the_same_seed_gives_the_same_head_and_trunk(bert: TunableEncoder, tmp_path: Path) -> None:
    dataset = fine_tuning_tasks.of_texts(bert)
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again, other = (bert.tune(dataset, tmp_path / str(i), seed, epochs=2) for i, seed in enumerate((3, 3, 4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert first.weights.read_bytes() == again.weights.read_bytes() != other.weights.read_bytes()
    assert first.head.graph().SerializeToString() == again.head.graph().SerializeToString()
    np.testing.assert_array_equal(first.test_scores, again.test_scores)
    assert first.history == again.history


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Sets what the validation scores of the epochs shall be."""

    def script(scores: list[float]) -> None:
        left = iter(scores)
        monkeypatch.setattr(Objective, "score", lambda *_: next(left))

    return script


def test_it_stops_when_it_gets_no_better_and_keeps_the_best(
    bert: TunableEncoder, tmp_path: Path, scripted: Callable[[list[float]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = fine_tuning_tasks.of_texts(bert)
    scripted([0.1, 0.9, 0.2, 0.3, 0.95])
    stopped = bert.tune(dataset, tmp_path / "stopped", epochs=9, patience=2)
    assert [entry["epoch"] for entry in stopped.history] == [1, 2, 3, 4]
    assert stopped.head.chosen["epoch"] == 2
    scripted([0.1, 0.9])
    monkeypatch.setattr(TrainingLoop, "_out_of_time", lambda loop: len(loop.history) == 2)
    cut = bert.tune(dataset, tmp_path / "cut", epochs=9)
    assert stopped.weights.read_bytes() == cut.weights.read_bytes()
    np.testing.assert_array_equal(stopped.test_scores, cut.test_scores)
    scripted([0.1, 0.9, 0.95])
    monkeypatch.setattr(TrainingLoop, "_out_of_time", lambda loop: len(loop.history) == 3)
    assert bert.tune(dataset, tmp_path / "on", epochs=9).weights.read_bytes() != cut.weights.read_bytes()


def test_without_validation_items_the_last_epoch_counts(bert: TunableEncoder, tmp_path: Path) -> None:
    tuned = bert.tune(fine_tuning_tasks.of_texts(bert, validation=np.zeros(0, np.int64)), tmp_path, epochs=3, patience=1)
    assert tuned.head.chosen["epoch"] == 3
    assert [entry["score"] for entry in tuned.history] == [None] * 3
    assert tuned.validation_scores.shape == (0, 2)


def test_it_stops_when_its_time_is_over(bert: TunableEncoder, tmp_path: Path) -> None:
    tuned = bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, epochs=1000, patience=0, max_seconds=1e-6)
    assert [entry["step"] for entry in tuned.history] == [1]


def test_it_says_how_far_it_is(bert: TunableEncoder, tmp_path: Path) -> None:
    reports: list[tuple[float, str]] = []
    bert.tune(
        fine_tuning_tasks.of_texts(bert), tmp_path, epochs=2, report=lambda fraction, message: reports.append((fraction, message))
    )
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    steps = [message for _, message in reports if "step" in message]
    assert len(steps) == 8
    assert "epoch 2/2, step 8/8, loss 0." in steps[-1]
    assert "validation accuracy" in steps[-1]


def test_parts_of_a_batch_add_up_to_it(bert: TunableEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training data that do not fit into memory are learned from in parts, to the same end but for rounding."""
    dataset = fine_tuning_tasks.of_texts(bert, "tokens", "mean")
    options = {"dropout": False, "epochs": 2, "learning_rate": 1e-4}
    whole = bert.tune(dataset, tmp_path / "whole", **options)
    monkeypatch.setattr(BertEncoder, "budget", 8)
    parts = bert.tune(dataset, tmp_path / "parts", **options)
    np.testing.assert_allclose(parts.test_scores, whole.test_scores, rtol=1e-2, atol=1e-3)


def test_a_linear_head_first_starts_lower(bert: TunableEncoder, tmp_path: Path) -> None:
    dataset, still = (
        fine_tuning_tasks.of_texts(bert),
        {"learning_rate": 0.0, "head_learning_rate": 0.0, "epochs": 1, "dropout": False},
    )
    random = bert.tune(dataset, tmp_path, **still).history[0]
    probed = bert.tune(dataset, tmp_path, head_start="probe", **still)
    assert probed.history[0]["loss"] < 0.5 * random["loss"]
    assert probed.head.chosen["probe_strength"] > 0
    for make in (fine_tuning_tasks.of_numbers, fine_tuning_tasks.of_many_labels, fine_tuning_tasks.of_answers):
        dataset = make(bert)
        begun = bert.tune(dataset, tmp_path, **still).history[0]["loss"]
        assert bert.tune(dataset, tmp_path, head_start="probe", **still).history[0]["loss"] < begun


def test_mirrored_pictures(pictures: TunableEncoder, videos: TunableEncoder, bert: TunableEncoder, tmp_path: Path) -> None:
    """The quarter that tells the classes is left in training, and may be on the right in the test."""
    dataset = fine_tuning_tasks.of_pictures(pictures)
    turned = [item[:, ::-1].copy() if i in dataset.test else item for i, item in enumerate(dataset.items)]
    tuned = pictures.tune(replace(dataset, items=turned), tmp_path, flip=True, epochs=10)
    assert (tuned.test_scores.argmax(1) == dataset.values[dataset.test]).all()
    for tunable, other in (
        (bert, fine_tuning_tasks.of_texts(bert)),
        (videos, fine_tuning_tasks.of_videos(videos)),
        (pictures, fine_tuning_tasks.of_cells(pictures)),
    ):
        assert "mirrors whole pictures" in refusal(lambda tunable=tunable, other=other: tunable.tune(other, tmp_path, flip=True))  # type: ignore[misc]


def test_half_precision_on_a_cpu_learns_too(bert: TunableEncoder, tmp_path: Path) -> None:
    dataset = fine_tuning_tasks.of_texts(bert)
    check(bert, dataset, Task.CLASSIFICATION, bert.tune(dataset, tmp_path, precision="bf16", epochs=15), 1.0)
    assert "needs CUDA" in refusal(lambda: bert.tune(dataset, tmp_path, precision="fp16", device="cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(bert: TunableEncoder, tmp_path: Path) -> None:
    assert "torch sees no CUDA device" in refusal(lambda: bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path, device="cuda"))


def with_values(dataset: FineTuneDataset, change: Callable[[Array], Any]) -> FineTuneDataset:
    values = dataset.values.copy()
    change(values)
    return replace(dataset, values=values)


def test_what_cannot_be_learned_is_refused(bert: TunableEncoder, tmp_path: Path) -> None:
    classes, numbers, labels = (
        fine_tuning_tasks.of_texts(bert),
        fine_tuning_tasks.of_numbers(bert),
        fine_tuning_tasks.of_many_labels(bert),
    )

    def refused(dataset: FineTuneDataset, **options: Any) -> str:
        return refusal(lambda: bert.tune(dataset, tmp_path, **options))

    assert "of one class" in refused(with_values(classes, lambda values: values.fill(1)))
    assert "no item to learn from" in refused(replace(classes, train=np.zeros(0, np.int64)))
    assert "not all finite" in refused(with_values(numbers, lambda values: values.__setitem__(3, np.nan)))
    assert "have the value 7" in refused(with_values(numbers, lambda values: values.fill(7)))
    assert "has a label" in refused(with_values(labels, lambda values: values.fill(0)))
    assert "balances classes and labels" in refused(numbers, class_weight="balanced")
    assert "windows are of videos" in refused(classes, windows=3)
    assert "not one" in refused(fine_tuning_tasks.of_texts(bert, "tokens", "row"))
    tokens = fine_tuning_tasks.of_tokens(bert)
    counts = tokens.counts.copy()
    counts[0] -= 1
    assert "there are" in refused(replace(tokens, counts=counts))
    spoilt = [*classes.items[:5], TextItem(" "), *classes.items[6:]]
    assert "item 5: the text is empty" in refused(replace(classes, items=spoilt))
    plain = [*fine_tuning_tasks.texts(pairs=True)[0][:7], TextItem("no pair"), *fine_tuning_tasks.texts(pairs=True)[0][8:]]
    assert "item 7" in refused(replace(fine_tuning_tasks.of_texts(bert, "tokens", "pair"), items=plain))


def test_a_training_that_explodes_says_so(bert: TunableEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objective, "loss", lambda _, raw, positions: raw.sum() * float("inf"))
    message = refusal(lambda: bert.tune(fine_tuning_tasks.of_texts(bert), tmp_path))
    assert "the loss of step 1 is not finite (give a smaller learning_rate)" in message


def test_a_ready_graph_is_refused(bert: TunableEncoder, tmp_path: Path) -> None:
    trunk, encoder, dataset = bert.trunk(), bert.encoder(), fine_tuning_tasks.of_texts(bert)
    graph = replace(trunk, module=None, graph=tmp_path / "model.onnx")
    call: Any = (graph, encoder, dataset, FineTuneOptions(), 0, 1, tmp_path, lambda *_: None)
    assert "ready graph" in refusal(lambda: FineTune.tune(*call))


def test_the_plugin_says_what_it_is() -> None:
    found = [(spec.kind, spec.tunes, spec.trainer.targets) for spec in register_trainers()]
    assert found == [("fine-tune", True, ROW_TARGETS), ("contrastive", True, {Target.CLASSES, Target.NUMBERS})]


TOPICS = (
    ["The goalkeeper saved a penalty.", "The striker scored twice.", "The coach praised her team.", "They won the final match."],
    ["Simmer the onions in butter.", "The soup needs more salt.", "Bake the bread until brown.", "Chop the herbs finely."],
)


@pytest.mark.weights
def test_minilm_learns_two_topics(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    [spec] = [spec for spec in register_encoders() if spec.name == "all-minilm-l6-v2"]
    tunable = TunableEncoder(spec, assets(spec), tmp_path / "out")
    places = ("", "Yesterday: ", "Note: ", "As always, ", "Then: ")
    pairs = [
        (TextItem(place + text), topic) for place in places for n in range(4) for topic in (0, 1) for text in [TOPICS[topic][n]]
    ]
    test = [i for i in range(40) if i % 8 >= 6]  # the fourth sentence of each topic is never learned from
    validation = [i for i in range(40) if i % 8 in (4, 5)]
    train = [i for i in range(40) if i % 8 < 4]
    dataset = fine_tuning_tasks.dataset(
        tunable,
        [item for item, _ in pairs],
        np.array([topic for _, topic in pairs]),
        "pooled",
        "row",
        Target.CLASSES,
        train=np.array(train),
        validation=np.array(validation),
        test=np.array(test),
    )
    tuned = tunable.tune(dataset, tmp_path / "tuned", epochs=3, learning_rate=2e-5, head_learning_rate=1e-2)
    assert (tuned.test_scores.argmax(1) == dataset.values[test]).mean() >= 0.9
    check(tunable, dataset, Task.CLASSIFICATION, tuned, 0.9)
