from __future__ import annotations

import gc
import random

import pytest
from topwork_server.inference.client_queues import QueuedSample
from topwork_server.inference.scheduler import FairBatchScheduler
from topwork_server.types import Priority


def never_expired(sample: QueuedSample) -> bool:
    return False


GROUP = (0, None)


def queue_of(*costs: int, budget: int = 100) -> tuple[FairBatchScheduler, list[QueuedSample]]:
    """Each a request of its own, all of one flow."""
    scheduler = FairBatchScheduler([budget])
    samples = [QueuedSample(cost, GROUP) for cost in costs]
    for one in samples:
        scheduler.push([one])
    return scheduler, samples


def costs(batch: list[QueuedSample]) -> list[int]:
    return sorted(one.cost for one in batch)


def test_the_oldest_rides_first_with_its_nearest() -> None:
    scheduler, samples = queue_of(10, 50, 11, 9, 49)
    assert costs(scheduler.take_batch(never_expired).batch) == [9, 10, 11]
    assert costs(scheduler.take_batch(never_expired).batch) == [49, 50]
    assert not scheduler.take_batch(never_expired).batch
    assert len(scheduler) == 0
    assert all(one.dequeued for one in samples)


def test_the_budget_counts_padding() -> None:
    scheduler, _ = queue_of(30, 30, 30, 30)
    assert costs(scheduler.take_batch(never_expired).batch) == [30, 30, 30]


def test_one_sample_may_exceed_the_budget_alone() -> None:
    scheduler, _ = queue_of(500, 500)
    assert costs(scheduler.take_batch(never_expired).batch) == [500]


def test_padding_that_costs_more_than_another_batch_keeps_short_from_long() -> None:
    scheduler, _ = queue_of(200, 500, budget=1000)
    assert costs(scheduler.take_batch(never_expired).batch) == [200]
    assert costs(scheduler.take_batch(never_expired).batch) == [500]


def test_short_ones_ride_together_where_padding_costs_less_than_another_batch() -> None:
    scheduler, _ = queue_of(10, 20, budget=1000)
    assert costs(scheduler.take_batch(never_expired).batch) == [10, 20]


def test_a_long_sample_is_not_starved_by_short_ones() -> None:
    scheduler, samples = queue_of(90, *[5] * 50)
    scheduler.push([QueuedSample(5, GROUP) for _ in range(50)])
    assert any(samples[0] in scheduler.take_batch(never_expired).batch for _ in range(2))


def test_a_short_sample_does_not_wait_for_all_the_long_ones_of_its_flow() -> None:
    scheduler, samples = queue_of(*[90] * 20, 5)
    taken = [scheduler.take_batch(never_expired).batch for _ in range(2)]
    assert [samples[-1]] in taken


def test_groups_never_share_a_batch() -> None:
    scheduler = FairBatchScheduler([100])
    for group in "abab":
        scheduler.push([QueuedSample(1, (0, group))])
    assert {one.group[1] for one in scheduler.take_batch(never_expired).batch} == {"a"}
    assert {one.group[1] for one in scheduler.take_batch(never_expired).batch} == {"b"}


def test_each_lane_has_its_own_budget() -> None:
    scheduler = FairBatchScheduler([10, 100])
    scheduler.push([QueuedSample(10, (1, None)) for _ in range(20)])
    scheduler.push([QueuedSample(10, (0, None)) for _ in range(20)])
    assert {len(scheduler.take_batch(never_expired).batch) for _ in range(4)} == {1, 10}


def test_cancelled_samples_join_no_batch_and_take_no_place() -> None:
    scheduler, samples = queue_of(10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, budget=40)
    left = {samples[0], samples[2], samples[3]}
    taken = scheduler.take_batch(lambda one: one in left)
    assert taken.batch == [samples[1], samples[4], samples[5], samples[6]]
    assert set(taken.dropped) == left
    assert len(scheduler) == 5


def test_a_sample_that_is_taken_out_is_gone_at_once() -> None:
    scheduler, samples = queue_of(10, 10, 10)
    scheduler.remove([samples[1]])
    assert (len(scheduler), samples[1].dequeued) == (2, True)
    scheduler.remove([samples[1]])
    assert scheduler.take_batch(never_expired).batch == [samples[0], samples[2]]
    assert len(scheduler) == 0


def test_drain_gives_everybody_in_order() -> None:
    scheduler, samples = queue_of(3, 1, 2)
    assert scheduler.drain() == samples
    assert len(scheduler) == 0
    assert not scheduler.take_batch(never_expired).batch


@pytest.mark.parametrize("seed", range(10))
def test_everybody_rides_once_within_the_budget(seed: int) -> None:
    chance = random.Random(seed)
    scheduler, everybody = FairBatchScheduler([512]), []
    for _ in range(60):
        samples = [QueuedSample(int(chance.lognormvariate(3, 1)) + 1, GROUP) for _ in range(chance.randint(1, 9))]
        scheduler.push(samples, chance.randint(1, 5), chance.choice(list(Priority)))
        everybody += samples
    ridden: list[QueuedSample] = []
    while batch := scheduler.take_batch(never_expired).batch:
        assert len(batch) == 1 or max(costs(batch)) * len(batch) <= 512
        ridden += batch
    assert len(ridden) == len(everybody)
    assert set(ridden) == set(everybody)
    assert len(scheduler) == 0


def test_little_is_padding_where_many_wait() -> None:
    chance = random.Random(0)
    scheduler, everybody = queue_of(*[int(chance.lognormvariate(3, 0.6)) + 1 for _ in range(2000)], budget=1024)
    area = sum(max(costs(batch)) * len(batch) for batch in iter(lambda: scheduler.take_batch(never_expired).batch, []))
    assert area < 1.02 * sum(costs(everybody))


def test_a_caller_with_one_sample_does_not_wait_for_a_streams_thousands() -> None:
    scheduler = FairBatchScheduler([100])
    scheduler.push([QueuedSample(10, GROUP) for _ in range(1000)], "stream")
    scheduler.take_batch(never_expired)
    scheduler.push([single := QueuedSample(10, GROUP)], "caller")
    assert single in scheduler.take_batch(never_expired).batch + scheduler.take_batch(never_expired).batch


def test_flows_share_by_cost_with_samples_of_any_size() -> None:
    scheduler, sent = FairBatchScheduler([64]), {"long": 0, "short": 0, "bulk": 0}
    costs_of = {"long": 64, "short": 4, "bulk": 16}
    for name, cost in costs_of.items():
        scheduler.push([QueuedSample(cost, (0, name)) for _ in range(6400 // cost)], name)
    for _ in range(60):
        for one in scheduler.take_batch(never_expired).batch:
            sent[str(one.group[1])] += one.cost
    assert max(sent.values()) - min(sent.values()) <= 2 * 64


def test_a_flow_that_filled_what_others_left_is_not_put_off_for_it() -> None:
    """Its long sample's turn comes, although its short ones rode along in each of the others' batches."""
    scheduler = FairBatchScheduler([100])
    scheduler.push([QueuedSample(10, GROUP) for _ in range(500)] + [odd := QueuedSample(100, GROUP)], "stream")
    waited = 0
    while not odd.dequeued:
        scheduler.push([QueuedSample(10, GROUP)], "caller")
        scheduler.take_batch(never_expired)
        waited += 1
    assert waited < 40


def test_a_flow_does_not_gain_by_leaving_and_coming_back() -> None:
    scheduler, sent = FairBatchScheduler([10]), {"steady": 0, "fickle": 0}
    scheduler.push([QueuedSample(10, (0, "steady")) for _ in range(100)], "steady")
    for _ in range(40):
        scheduler.push([QueuedSample(10, (0, "fickle"))], "fickle")
        for one in scheduler.take_batch(never_expired).batch:
            sent[str(one.group[1])] += 1
    assert abs(sent["steady"] - sent["fickle"]) <= 2


def test_the_highest_priority_goes_first_and_the_lower_fill_its_batch() -> None:
    scheduler = FairBatchScheduler([100])
    scheduler.push([QueuedSample(20, GROUP) for _ in range(9)], "a", Priority.LOW)
    scheduler.push([normal := QueuedSample(20, GROUP)], "b", Priority.NORMAL)
    scheduler.push([high := QueuedSample(20, GROUP)], "c", Priority.HIGH)
    first = scheduler.take_batch(never_expired).batch
    assert (first[0], first[1], len(first)) == (high, normal, 5)
    assert len(scheduler.take_batch(never_expired).batch) == 5


def test_a_higher_priority_is_served_before_all_of_a_lower() -> None:
    scheduler = FairBatchScheduler([10])
    scheduler.push([QueuedSample(10, GROUP) for _ in range(5)], "a", Priority.NORMAL)
    urgent = [QueuedSample(10, GROUP) for _ in range(5)]
    scheduler.push(urgent, "a", Priority.HIGH)
    assert [scheduler.take_batch(never_expired).batch[0] for _ in range(5)] == urgent


def test_clients_that_are_gone_are_not_kept() -> None:
    """Not in memory either: a picture's sample is 600 KB."""
    scheduler = FairBatchScheduler([10])
    for _ in range(300):
        scheduler.push([QueuedSample(1, GROUP) for _ in range(10)], "stream")
        scheduler.push([QueuedSample(10, GROUP)], "caller")
        scheduler.take_batch(never_expired)
    kept = sum(1 for one in gc.get_objects() if type(one) is QueuedSample and one.dequeued)
    assert kept < 3 * len(scheduler) + 200
