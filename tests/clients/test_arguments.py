"""Every argument of every verb of both clients, with values of wrong types and sizes: what is raised is our own errors."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import topwork
from both_clients import ClientFactory, EitherClient
from fake_server import FakeServer

SET = {"set": "s"}
#: A call of each verb that is right.
CALLS: dict[str, dict[str, Any]] = {
    "health": {},
    "encoders": {},
    "encoder": {"name": "letters"},
    "embed": {"encoder": "letters", "items": ["a"]},
    "embed_taps": {"encoder": "letters", "items": ["a"], "taps": ["pooled"]},
    "embed_stream": {"encoder": "letters", "items": ["a"]},
    "nearest_words": {"encoder": "words", "items": ["a"]},
    "fill": {"encoder": "letters", "items": ["a"]},
    "pretrainers": {},
    "pretrain": {"kind": "words", "texts": ["a"], "name": "w"},
    "write": {**SET, "items": ["a"], "ids": ["1"], "metadata": [{"year": 1}], "encoder": "letters"},
    "write_stream": {**SET, "items": ["a"], "ids": ["1"], "metadata": [{"year": 1}], "encoder": "letters"},
    "read": SET,
    "read_stream": SET,
    "export_set": {**SET, "path": "/nowhere/s.npz"},
    "delete": {**SET, "ids": ["9"]},
    "count": SET,
    "update": {**SET, "ids": ["1"], "metadata": [{"year": 1}]},
    "add_column": {**SET, "column": "month", "type": "int"},
    "rename_column": {**SET, "column": "nothing", "to": "week"},
    "cast_column": {**SET, "column": "nothing", "type": "float"},
    "drop_column": {**SET, "column": "nothing"},
    "sets": {},
    "set": {"name": "s"},
    "drop_set": {"name": "nothing"},
    "versions": SET,
    "pin": {**SET, "pin": "p"},
    "unpin": {**SET, "pin": "nothing"},
    "prune": {**SET, "older_than": 60.0},
    "create_index": SET,
    "rebuild_index": SET,
    "index": SET,
    "indexes": {},
    "drop_index": {**SET, "name": "nothing"},
    "index_kinds": {},
    "search": {**SET, "query": "a"},
    "trainers": {},
    "train": {**SET, "target": "year"},
    "head": {"name": "h"},
    "heads": {},
    "drop_head": {"name": "nothing"},
    "report": {"name": "h"},
    "report_page": {"name": "h"},
    "probe": {"sets": ["s"], "target": "year"},
    "export_head": {"name": "h", "path": "/nowhere/h.onnx"},
    "predict": {"heads": "h", "items": ["a"]},
    "jobs": {},
    "job": {"id": "7"},
    "watch_job": {"id": "7"},
    "cancel_job": {"id": "7"},
}
#: Arguments that stand instead of others.
INSTEAD = {
    ("search", "vectors"): ("query",),
    ("search", "stored"): ("query",),
    ("predict", "vectors"): ("items",),
    ("predict", "ids"): ("items",),
    ("write", "vectors"): ("items",),
    ("write_stream", "vectors"): ("items",),
    ("delete", "where"): ("ids",),
    ("update", "where"): ("ids",),
}
WRONG: list[Any] = [
    None,
    "",
    "x",
    "\ud800",
    b"\xff",
    True,
    -1,
    2**70,
    1.5,
    -0.5,
    math.nan,
    1e300,
    -math.inf,
    [],
    [None],
    [math.nan],
    [[["a"]]],
    ["\ud800"],
    {},
    {1: 2},
    {"a": object()},
    {"tags": [["a", None]]},
    [{"tags": ["a", None]}],
    [{"time": np.datetime64("NaT"), "x": 10**30}],
    object(),
    object,
    iter([object()]),
    (None, None),
    np.float32(math.nan),
    np.zeros((0, 0)),
    np.array([[None]]),
    np.array([[1e300]]),
]


@pytest.fixture
def served(server: FakeServer) -> FakeServer:
    with topwork.Client(server.target) as client:
        client.write("s", ["a", "b"], ["1", "2"], [{"year": 1}, {"year": 2}], encoder="letters")
    return server


#: The second client checks arguments by the same code: it is given a fifth of the values, in turn, and all of them where
#: $TOPWORK_ARGUMENTS is "all".
TURNS = 1 if os.environ.get("TOPWORK_ARGUMENTS") == "all" else 5


def wrong_calls(verb: str, turns: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for turn, name in enumerate(list(inspect.signature(getattr(topwork.Client, verb)).parameters)[1:]):
        others = {key: value for key, value in CALLS[verb].items() if key not in INSTEAD.get((verb, name), ())}
        for value in WRONG[turn % turns :: turns]:
            yield f"{name}={value!r}", {**others, name: value}


def test_the_table_has_every_verb() -> None:
    assert set(CALLS) == {name for name in vars(topwork.Client) if not name.startswith("_") and name != "close"}


@pytest.mark.parametrize("verb", CALLS)
def test_a_wrong_argument_is_one_of_our_errors(verb: str, served: FakeServer, factory: ClientFactory) -> None:
    method = getattr(factory.open(timeout=30, retry_for=0), verb)
    turns = TURNS if factory.asynchronous else 1
    raised = {call_text: error for call_text, call in wrong_calls(verb, turns) if (error := error_of(method, call))}
    assert {call_text: error for call_text, error in raised.items() if not isinstance(error, topwork.TopworkError)} == {}
    assert all(map(str, raised.values()))


def error_of(method: Any, call: dict[str, Any]) -> Exception | None:
    try:
        result = method(**call)
        if isinstance(result, Iterator):
            list(result)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    ("verb", "wrong", "named", "remedy"),
    [
        ("search", {"k": "3"}, "k is '3'", "whole number"),
        ("search", {"where": None}, "where is None", "str"),
        ("search", {"within": math.nan}, "within", "number"),
        ("search", {"exact": 1}, "exact is 1", "True or False"),
        ("read", {"limit": 2**70}, "limit", str(2**63 - 1)),
        ("read", {"columns": ["year", 3]}, "columns[1] is 3", "str"),
        ("read", {"where": "\ud800"}, "where is not valid Unicode", ""),
        ("train", {"descriptions": {"a": 1}}, "descriptions['a'] is 1", "str"),
        ("embed", {"options": 7}, "options is 7", "dict"),
        ("embed", {"timeout": -1}, "timeout is -1", "0 or more"),
        ("embed", {"progress": 5}, "progress is 5", "function"),
        ("write", {"metadata": {"tags": [["a", None]]}}, "'tags'", ""),
    ],
)
def test_a_wrong_argument_is_named(verb: str, wrong: dict[str, Any], named: str, remedy: str, client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput) as caught:
        getattr(client, verb)(**{**CALLS[verb], **wrong})
    assert named in caught.value.message
    assert remedy in caught.value.remedy


def test_a_stream_is_refused_where_it_is_called(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match="chunk is 0"):
        client.embed_stream("letters", ["a"], chunk=0)


def test_a_lone_name_is_a_list_of_one(both: EitherClient, served: FakeServer) -> None:
    assert list(both.embed_taps("letters", ["a"], "pooled")) == ["pooled"]
    assert list(both.read("s", columns="year").metadata) == ["year"]
