"""The arithmetic of fine-tuning by hand: AdamW's steps, rates, losses, scores, which samples are read and together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from topwork_plugins.fine_tune import tune
from topwork_plugins.fine_tune.loop import BETAS, EPSILON, Optimizer, schedule
from topwork_plugins.fine_tune.network import PreparedSamples, mirrored, pooled, runs_within_budget, shuffled
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import FineTuneOptions
from topwork_plugins.fine_tune.plugin import FineTune
from topwork_server import (
    Encoder,
    EncoderSpec,
    FineTuneDataset,
    Granularity,
    InvalidInput,
    Modality,
    NoOptions,
    Sample,
    Tap,
    Target,
    TrainingPlan,
    Trunk,
)
from topwork_server.plugin_api import options
from topwork_server.types import Array
from toys import letters_spec


def adam_by_hand(start: Array, gradients: Sequence[Array], rate: float, decay: float, *, corrected: bool) -> Array:
    """Kingma and Ba 2015, algorithm 1, with Loshchilov and Hutter's decay; or without lines 7 and 8, as BERTAdam."""
    (b1, b2), value = BETAS, start.astype(np.float64)
    m, v = np.zeros_like(value), np.zeros_like(value)
    for t, gradient in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        m_hat, v_hat = (m / (1 - b1**t), v / (1 - b2**t)) if corrected else (m, v)
        value = value - rate * decay * value - rate * m_hat / (np.sqrt(v_hat) + EPSILON)
    return value


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_two_steps_are_those_of_the_formulas(corrected: bool, scale: float) -> None:
    """Also of gradients so small that eps decides."""
    start = np.array([1.0, -2.0, 0.5])
    gradients = [scale * np.array([0.3, -0.1, 2.0]), scale * np.array([-0.2, 0.4, 1.0])]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Optimizer([{"params": [parameter], "lr": 0.1, "weight_decay": 0.02}], bias_correction=corrected)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.set_rates(factor=0.5)
        optimizer.torch.step()
    expected = adam_by_hand(start, gradients, rate=0.05, decay=0.02, corrected=corrected)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)


def test_rates_rise_and_fall() -> None:
    assert [schedule(step, 10, 0.2) for step in range(10)] == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert schedule(0, 4, 0.0) == 1.0
    assert [schedule(step, 2, 1.0) for step in range(2)] == [0.5, 1.0]


class Stack(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(3, 2)
        self.layer = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
        self.norm = torch.nn.LayerNorm(2)


BLOCKS = (("embed.",), ("layer.0.",), ("layer.1.",), ("layer.2.",))


def home(net: torch.nn.Module) -> dict[str, int]:
    return tune.block_of_parameters([name for name, _ in net.named_parameters()], BLOCKS)


def test_what_no_prefix_names_is_in_the_last_block() -> None:
    found = home(Stack())
    assert {found["norm.weight"], found["norm.bias"], found["layer.2.bias"]} == {3}
    assert (found["embed.weight"], found["layer.0.weight"]) == (0, 1)
    assert set(tune.block_of_parameters(["a", "b"], ()).values()) == {0}


def rates(net: torch.nn.Module, **given: Any) -> dict[str, tuple[float, float]]:
    groups = tune.parameter_groups(net, home(net), 1e-3, FineTuneOptions(**given))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_rates_fall_from_block_to_block() -> None:
    found = rates(Stack(), layer_decay=0.5, weight_decay=0.1)
    assert found["layer.2.weight"] == (1e-3, 0.1)
    assert found["norm.weight"] == found["layer.2.bias"] == (1e-3, 0.0)
    assert found["layer.1.weight"] == (0.5e-3, 0.1)
    assert found["layer.0.bias"] == (0.25e-3, 0.0)
    assert found["embed.weight"] == (0.125e-3, 0.1)
    assert len(found) == len(dict(Stack().named_parameters()))


def test_the_highest_block_that_learns_has_the_whole_rate() -> None:
    net = Stack()
    reached = [name for name, _ in net.named_parameters() if name.startswith(("embed", "layer.0", "layer.1"))]
    assert tune.freeze(net, home(net), reached, 4, bottom=1) == [1, 2]
    found = rates(net, layer_decay=0.5)
    assert set(found) == {"layer.0.weight", "layer.0.bias", "layer.1.weight", "layer.1.bias"}
    assert found["layer.1.bias"][0] == 1e-3
    assert tune.freeze(net, home(net), reached, 4, bottom=-1) == []
    assert rates(net) == {}


def test_restarted_blocks_begin_as_bert_s_did() -> None:
    torch.manual_seed(0)
    net = Stack()
    net.norm.weight.data.fill_(7.0)
    net.layer[2] = torch.nn.Linear(200, 200)
    before = net.layer[1].weight.clone()
    tune.freeze(net, home(net), [name for name, _ in net.named_parameters()], 4, bottom=0)
    tune.reinitialize(net, home(net), [0, 1, 2, 3], top=1)
    assert float(net.layer[2].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not net.layer[2].bias.any()
    assert net.norm.weight.tolist() == [1, 1]
    assert torch.equal(net.layer[1].weight, before)


def a_dataset(
    values: Any, target: Target, counts: Sequence[int], how: str = "row", names: Sequence[str] = ("a", "b", "c")
) -> FineTuneDataset:
    items = np.arange(len(counts))
    tap = Tap("tap", 3, Granularity.ITEM)
    return FineTuneDataset(
        [], None, tap, how, target, tuple(names), np.array(values), np.array(counts), items, items[:0], items[:0]
    )


def test_classes_are_weighed() -> None:
    dataset = a_dataset([0, 0, 0, 1], Target.CLASSES, [1] * 4)
    raw = torch.tensor([[2.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 3]])
    each = -raw.log_softmax(1)[range(4), [0, 0, 0, 1]]
    plain, balanced = (Objective(dataset, how).loss(raw, range(4)) for how in ("none", "balanced"))
    torch.testing.assert_close(plain, each.sum())
    torch.testing.assert_close(balanced, (each * torch.tensor([4 / 6, 4 / 6, 4 / 6, 2.0])).sum())
    assert Objective(dataset, "none").score(raw.numpy(), range(4)) == 0.5


def test_ignored_rows_teach_and_judge_nothing() -> None:
    dataset = a_dataset([0, -1, 1, -1], Target.CLASSES, [2, 2], "rows", ("a", "b"))
    objective = Objective(dataset, "none")
    raw = torch.tensor([[2.0, 0], [0, 5], [1, 0], [9, 0]])
    other = raw.clone()
    other[[1, 3]] = 100.0
    assert objective.size(np.array([0, 1])) == 2
    torch.testing.assert_close(objective.loss(raw, [0, 1]), objective.loss(other, [0, 1]))
    assert objective.score(raw.numpy(), [0, 1]) == pytest.approx((2 / 3 + 0) / 2)  # F1 of a: 2/3; b is never said


def test_labels_are_weighed() -> None:
    dataset = a_dataset([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]], Target.LABELS, [1] * 4, names=("a", "b"))
    raw = torch.zeros(4, 2)
    assert float(Objective(dataset, "none").loss(raw, range(4))) == pytest.approx(4 * math.log(2))
    balanced = Objective(dataset, "balanced").loss(raw, range(4))
    assert float(balanced) == pytest.approx((3 * 1 + 3 + 2 + 2) / 2 * math.log(2))  # three other rows for the one with a
    scores = np.array([[1, -1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    assert Objective(dataset, "none").score(scores, range(4)) == pytest.approx(2 / 3)


def test_numbers_are_learned_in_units_of_their_own() -> None:
    dataset = a_dataset([[100.0], [300.0]], Target.NUMBERS, [1, 1])
    objective = Objective(dataset, "none")
    raw = torch.tensor([[-1.0], [1.0]])
    assert float(objective.loss(raw, [0, 1])) == 0
    scores = objective.scores_of(raw)
    assert scores.tolist() == [[100], [300]]
    assert objective.score(scores, [0, 1]) == 1
    assert objective.score(scores[::-1], [0, 1]) == -3
    rows, weight, bias = np.array([[2.0, 4.0]], np.float32), np.array([[0.5, 1.0]], np.float32), np.array([0.25], np.float32)
    folded, shift = objective.fold_output_layer(weight, bias, scale=2.0)
    np.testing.assert_allclose(rows @ folded.T + shift, ((rows / 2) @ weight.T + bias) * 100 + 200)


def test_any_right_span_is_right() -> None:
    values = [[1, 0], [0, 1], [1, 1], [0, 0], [0, 0]]  # of the first item's three rows two starts are right; the second has none
    dataset = a_dataset(values, Target.SPAN, [3, 2], "rows", ())
    objective = Objective(dataset, "none")
    raw = torch.tensor([[1.0, 0], [0, 3], [2, 0], [5, 5], [5, 5]])
    start = torch.tensor([1.0, 0, 2]).softmax(0)
    end = torch.tensor([0.0, 3, 0]).softmax(0)
    expected = -(torch.log(start[0] + start[2]) + torch.log(end[1] + end[2])) / 2
    torch.testing.assert_close(objective.loss(raw, [0, 1]), expected)
    assert objective.score(raw.numpy(), [0, 1]) == 1
    raw[0, 1] = 9
    assert objective.score(raw.numpy(), [0, 1]) == 0


def test_the_deviation_of_equal_rows_has_a_gradient() -> None:
    rows = torch.ones(1, 3, requires_grad=True)
    found = pooled("mean+std", rows, None, Target.CLASSES)
    assert found.tolist() == [[1, 1, 1, 0, 0, 0]]
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad.tolist() == [[1, 1, 1]]


class Counted(Encoder):
    """Items are numbers: so many samples of so much cost; it counts how often it is asked."""

    asked = 0

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        raise NotImplementedError

    def preprocess(self, item: Any, options: Any) -> Iterator[Sample]:
        Counted.asked += 1
        if item < 0:
            raise InvalidInput("it is negative")
        return (Sample({"x": np.full(4, n, np.float32)}) for n in range(item))


@pytest.fixture
def counted() -> Counted:
    Counted.asked = 0
    return Counted(EncoderSpec("counted", Counted, "file:/none", Modality.TENSOR), Path())


def numbers(samples: Any) -> list[float]:
    return [float(sample.inputs["x"][0]) for sample in samples]


def test_samples_are_kept_within_the_bound_and_else_made_again(counted: Counted) -> None:
    items: Any = [3, 2, 4]
    prepared = PreparedSamples(counted, items, NoOptions(), threads=2, cache=5 * 16)
    assert (prepared.counts.tolist(), prepared.costs.tolist(), Counted.asked) == ([3, 2, 4], [3, 2, 4], 3)
    assert [numbers(prepared.samples(i)) for i in range(3)] == [[0, 1, 2], [0, 1], [0, 1, 2, 3]]
    assert Counted.asked == 4


def test_items_that_cannot_be_read_are_named(counted: Counted) -> None:
    with pytest.raises(InvalidInput, match="item 1: it is negative"):
        PreparedSamples(counted, [1, -1], NoOptions(), threads=2)  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="item 1: it gives the trunk nothing"):
        PreparedSamples(counted, [1, 0], NoOptions(), threads=1)  # type: ignore[list-item]


def test_a_few_windows_are_drawn_in_order(counted: Counted) -> None:
    items: Any = [9, 2]
    prepared = PreparedSamples(counted, items, NoOptions(), threads=1)
    random = np.random.default_rng(0)
    draws = [numbers(prepared.draw_samples(0, 3, random)) for _ in range(20)]
    assert all(draw == sorted(set(draw)) and len(draw) == 3 for draw in draws)
    assert {n for draw in draws for n in draw} == set(range(9))
    assert numbers(prepared.draw_samples(1, 3, random)) == [0, 1]


def test_batches_hold_each_item_once_and_items_of_like_length() -> None:
    costs = np.random.default_rng(1).integers(1, 100, 200)
    batches = shuffled(np.arange(50, 200), costs, 8, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(50, 200))
    assert {len(batch) for batch in batches} == {8, 6}
    spread = np.mean([np.ptp(costs[batch]) for batch in batches])
    assert spread < 0.3 * np.ptp(costs)
    again = shuffled(np.arange(50, 200), costs, 8, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_runs_stay_within_the_budget() -> None:
    assert runs_within_budget([], 10) == []
    assert runs_within_budget([3, 3, 3, 3], 10) == [slice(0, 3), slice(3, 4)]
    assert runs_within_budget([1, 1, 20, 1, 6], 10) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]


def test_a_mirror_turns_columns() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert mirrored(Sample({"pictures": picture})).inputs["pictures"][0, 0].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frozen_blocks", -2),
        ("learning_rate", -1e-5),
        ("learning_rate", float("nan")),
        ("layer_decay", 0.0),
        ("warmup", 1.5),
        ("epochs", 0),
        ("batch", 0),
        ("windows", 0),
        ("max_seconds", -1.0),
        ("class_weight", "some"),
        ("epochs", 2.5),
    ],
)
def test_options_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=name):
        options.parse(FineTuneOptions, {name: value})


def test_options_are_said() -> None:
    choices = options.choices(FineTuneOptions)
    assert all(choice.description for choice in choices)
    assert options.parse(FineTuneOptions, {"learning_rate": None}) == FineTuneOptions()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rank": 4}, "adapter"),
        ({"alpha": 8.0}, "adapter"),
        ({"target_modules": "query"}, "adapter"),
        ({"frozen_blocks": -1, "layer_decay": 0.5}, "frozen_blocks"),
        ({"frozen_blocks": -1, "learning_rate": 1e-3}, "frozen_blocks"),
        ({"frozen_blocks": -1, "adapter": "lora"}, "frozen_blocks"),
        ({"adapter": "lora", "reinitialize": 1}, "reinitialize"),
    ],
)
def test_options_that_do_nothing_beside_others_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        options.parse(FineTuneOptions, given)
    assert options.parse(FineTuneOptions, {"adapter": "lora", "rank": 4}).rank == 4


@pytest.mark.parametrize("blocks", [1, 13])
def test_more_frozen_blocks_than_there_are_are_refused_before_a_job(blocks: int) -> None:
    plan = TrainingPlan(letters_spec(), None, (), Target.CLASSES, blocks=blocks)
    FineTune.check(plan, FineTuneOptions(frozen_blocks=blocks))
    FineTune.check(replace(plan, blocks=0), FineTuneOptions(frozen_blocks=99))  # an older server exported it
    with pytest.raises(InvalidInput, match=f"the trunk has {blocks} block") as refused:
        FineTune.check(plan, FineTuneOptions(frozen_blocks=99))
    assert f"to {blocks}" in refused.value.remedy
