"""Names near one that is not there, and what an error repeats of what it was given."""

from __future__ import annotations

import time

import pytest
from topwork._display.excerpts import cut_bytes, excerpt, listed
from topwork_server.names import instead, near

KNOWN = ["all-minilm-l6-v2", "efficientnet-lite0", "resnet50-thin", "i3d-resnet50-thin"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("all-minilm", "all-minilm-l6-v2"),
        ("resnet50", "resnet50-thin"),
        ("EfficientNet-Lite0", "efficientnet-lite0"),
        ("zzz", None),
    ],
)
def test_the_nearest_comes_first(name, first):
    assert next(iter(near(name, KNOWN)), None) == first


def test_where_none_is_near_the_first_are_listed():
    assert (
        instead("zzz", [f"set-{i}" for i in range(12)], "write to it")
        == "there are: " + ", ".join(f"set-{i}" for i in range(10)) + " and 2 more"
    )
    assert instead("zzz", [], "write to it") == "write to it"


def test_long_names_and_many_names_take_no_time():
    """With difflib: 40 s and 2 GiB."""
    many = [f"set-{i}" for i in range(10_000)]
    began = time.process_time()
    near("a" * (60 << 20), many)
    near("set-77", ["b" * 10_000] * 1000)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("value", "shortened"),
    [
        ("red", "'red'"),
        ("a" * 1000, f"'{'a' * 80}'... (1,000 characters)"),
        (b"a" * 1000, f"b'{'a' * 80}'... (1,000 bytes)"),
        ([1] * 1000, "a list of 1,000"),
        (3.5, "3.5"),
    ],
)
def test_an_excerpt_is_short(value, shortened):
    assert excerpt(value) == shortened


def test_a_message_is_cut_to_bytes_of_utf_8():
    assert cut_bytes("é" * 100, 11) == "é" * 5
    assert cut_bytes("a\udcff", 10) == "a?"
    assert listed(["a", "b"]) == "a, b"
