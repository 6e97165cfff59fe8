from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topwork_server import Encoder, EncoderSpec, Item, Modality, Sample, TextItem, Trunk, check_caller
from topwork_server.errors import DeadlineExceeded, InvalidInput, TopworkError
from topwork_server.inference.preprocessing import PreparedItem, PreprocessPool, RequestPreprocessor


class Words(Encoder):
    """Keeps where its items are prepared."""

    inline_max_chars = 10
    chunk_items = 3

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        raise NotImplementedError

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        self.thread = threading.current_thread().name
        if item == TextItem("bad"):
            raise InvalidInput("bad", remedy="send a good one")
        return [Sample({"x": np.zeros(1, np.float32)})]


class Never(Words):
    inline_max_chars = 0


class Failing(Words):
    def preprocess_many(self, items: Sequence[Item], options: Any) -> Iterator[Iterable[Sample] | Exception]:
        yield self.preprocess(items[0], options)
        raise KeyError("a bug of the author's")


class Short(Words):
    def preprocess_many(self, items: Sequence[Item], options: Any) -> Iterable[Iterable[Sample] | Exception]:
        return [self.preprocess(items[0], options)]


class Endless(Words):
    """Works on one item until its caller has left."""

    inline_max_chars = 0

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self.begun, self.ended = threading.Event(), threading.Event()

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        self.begun.set()
        try:
            while True:
                check_caller()
        finally:
            self.ended.set()


def words(kind: type[Words] = Words) -> Words:
    return kind(EncoderSpec("words", kind, "package:none", Modality.TEXT), Path())


def prepared(encoder: Words, items: Sequence[Item], *, skip: bool = False) -> list[PreparedItem]:
    threads = PreprocessPool(1)
    try:
        return asyncio.run(RequestPreprocessor(encoder, None, threads, skip=skip).preprocess_chunk(7, items))
    finally:
        threads.close()


@pytest.mark.parametrize(
    ("kind", "items", "where"),
    [
        (Words, [TextItem("a"), TextItem("b", "c")], "MainThread"),
        (Words, [TextItem("a" * 10)], "MainThread"),
        (Words, [TextItem("a" * 5, "b" * 6)], "prepare"),
        (Words, [TextItem("a"), np.zeros(1)], "prepare"),
        (Never, [TextItem("a")], "prepare"),
    ],
)
def test_only_few_characters_are_prepared_on_the_loop(kind: type[Words], items: list[Item], where: str) -> None:
    encoder = words(kind)
    assert len(prepared(encoder, items)) == len(items)
    assert encoder.thread.startswith(where)


@pytest.mark.parametrize("long", [False, True])
def test_a_bad_item_is_named_wherever_it_is_prepared(long: bool) -> None:
    items = [TextItem("a" * (20 if long else 1)), TextItem("bad")]
    with pytest.raises(InvalidInput) as refused:
        prepared(words(), items)
    assert refused.value.item == 8
    good, bad = prepared(words(), items, skip=True)
    assert (len(good.samples), good.error) == (1, None)
    assert isinstance(bad.error, InvalidInput)


@pytest.mark.parametrize("kind", [Failing, Short])
def test_items_that_an_encoder_leaves_unanswered_are_its_failure(kind: type[Words]) -> None:
    items = [TextItem("a"), TextItem("b"), TextItem("c")]
    with pytest.raises(TopworkError, match="the encoder failed on this item") as refused:
        prepared(words(kind), items)
    assert refused.value.item == 8
    assert [one.error is None for one in prepared(words(kind), items, skip=True)] == [True, False, False]


def test_texts_in_flight_are_enough_to_find_others_of_their_length() -> None:
    preparation = RequestPreprocessor(words(), None, PreprocessPool(1), skip=False)
    assert (preparation.chunk_size, preparation.chunks_in_flight) == (3, 682)


def test_a_caller_that_leaves_ends_the_work_on_an_item_that_is_begun_and_what_waits_is_not_begun() -> None:
    async def go() -> None:
        encoder, threads = Endless(words().spec, Path()), PreprocessPool(1)
        leaver = RequestPreprocessor(encoder, None, threads, skip=False)
        work = asyncio.ensure_future(leaver.preprocess_chunk(0, [TextItem("a")]))
        await asyncio.to_thread(encoder.begun.wait, 30)
        waiting = Endless(words().spec, Path())
        behind = asyncio.ensure_future(
            RequestPreprocessor(waiting, None, threads, skip=False, deadline=-math.inf).preprocess_chunk(0, [TextItem("b")])
        )
        leaver.cancelled = True
        for ended in (work, behind):
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(ended, 30)
        assert encoder.ended.is_set()
        assert not waiting.begun.is_set()
        threads.close()

    asyncio.run(go())


def test_a_deadline_ends_the_work_on_an_item_though_bad_items_are_skipped() -> None:
    async def go() -> None:
        encoder, threads = Endless(words().spec, Path()), PreprocessPool(1)
        preparation = RequestPreprocessor(encoder, None, threads, skip=True, deadline=time.monotonic() + 0.01)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(preparation.preprocess_chunk(0, [TextItem("a")]), 30)
        threads.close()

    asyncio.run(go())


def test_outside_of_a_request_no_caller_has_left() -> None:
    check_caller()
