"""convert.py: arrays cross as bytes, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct
from topwork.v1 import types_pb2
from topwork_server.services.convert import item_messages


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int32", "int64"])
def test_an_array_comes_back_as_it_went(dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    back = item_messages.array(item_messages.tensor(values))
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)


def test_layout_and_byte_order_do_not_matter_to_the_sender():
    values = np.arange(6, dtype=">f4").reshape(2, 3).T[:, ::-1]
    assert np.array_equal(item_messages.array(item_messages.tensor(values)), values)


def test_an_array_is_a_view_that_cannot_be_written():
    message = item_messages.tensor(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        item_messages.array(message)[0] = 1


def test_a_tensor_without_dtype_is_float32():
    message = types_pb2.Tensor(shape=[2], data=np.array([1, 2], "<f4").tobytes())
    assert item_messages.array(message).tolist() == [1.0, 2.0]


def test_numbers_of_a_struct_are_whole_where_they_can_be():
    struct = Struct()
    struct.update({"a": 3.0, "b": -0.5, "c": 1e300, "d": float("inf"), "e": None, "f": [], "g": {}})
    plain = item_messages.options(struct)
    assert plain == {"a": 3, "b": -0.5, "c": int(1e300), "d": float("inf"), "e": None, "f": [], "g": {}}
    assert [type(plain[name]) for name in "abcd"] == [int, float, int, float]
