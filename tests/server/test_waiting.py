from __future__ import annotations

import random

import pytest
from topwork_server.waiting import Line, Waiting


def nobody_left(waiting: Waiting) -> bool:
    return False


def line_of(*costs: int, budget: int = 100, padding: float = 0.15) -> tuple[Line, list[Waiting]]:
    line = Line(budget, padding)
    people = [Waiting(cost, None, None) for cost in costs]
    for one in people:
        line.push(one)
    return line, people


def costs(batch: list[Waiting]) -> list[int]:
    return sorted(one.cost for one in batch)


def test_the_oldest_rides_first_with_its_nearest() -> None:
    line, people = line_of(10, 50, 11, 9, 49)
    assert costs(line.take(nobody_left).batch) == [9, 10, 11]
    assert costs(line.take(nobody_left).batch) == [49, 50]
    assert not line.take(nobody_left).batch
    assert len(line) == 0
    assert all(one.gone for one in people)


def test_the_budget_counts_padding() -> None:
    line, _ = line_of(30, 30, 30, 30)
    assert costs(line.take(nobody_left).batch) == [30, 30, 30]


def test_one_sample_may_exceed_the_budget_alone() -> None:
    line, _ = line_of(500, 500)
    assert costs(line.take(nobody_left).batch) == [500]


def test_the_padding_cap_keeps_short_from_long() -> None:
    line, _ = line_of(10, 20, budget=1000)
    assert costs(line.take(nobody_left).batch) == [10]
    assert costs(line.take(nobody_left).batch) == [20]


def test_a_long_sample_is_not_starved_by_short_ones() -> None:
    line, people = line_of(90, *[5] * 50)
    assert line.take(nobody_left).batch == [people[0]]


def test_groups_never_share_a_batch() -> None:
    line = Line(100, 1.0)
    for group in "abab":
        line.push(Waiting(1, group, None))
    assert {one.group for one in line.take(nobody_left).batch} == {"a"}
    assert {one.group for one in line.take(nobody_left).batch} == {"b"}


def test_those_who_left_do_not_ride_and_take_no_place() -> None:
    line, people = line_of(10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, budget=40)
    left = {people[0], people[2], people[3]}
    taken = line.take(lambda one: one in left)
    assert taken.batch == [people[1], people[4], people[5], people[6]]
    assert set(taken.dropped) == left
    assert len(line) == 5


def test_drain_gives_everybody_in_order() -> None:
    line, people = line_of(3, 1, 2)
    assert line.drain() == people
    assert len(line) == 0


@pytest.mark.parametrize("seed", range(20))
def test_everybody_rides_once_within_budget_and_padding(seed: int) -> None:
    chance = random.Random(seed)
    line, everybody = line_of(*[int(chance.lognormvariate(3, 1)) + 1 for _ in range(300)], budget=512)
    ridden: list[Waiting] = []
    while batch := line.take(nobody_left).batch:
        longest, total = max(one.cost for one in batch), sum(one.cost for one in batch)
        assert len(batch) == 1 or longest * len(batch) <= 512
        assert 1 - total / (longest * len(batch)) <= 0.15
        ridden += batch
    assert len(ridden) == len(everybody)
    assert set(ridden) == set(everybody)
