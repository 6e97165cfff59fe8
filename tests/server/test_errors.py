"""The server's errors: those of the client's tree, and what tells an exhausted process."""

from __future__ import annotations

import errno

import pytest
from topwork import errors as of_client
from topwork_server import errors
from topwork_server.services.message_limits import Undecodable


def test_server_and_client_have_one_tree() -> None:
    assert errors.InvalidInput is of_client.InvalidInput
    assert errors.DeadlineExceeded is of_client.DeadlineExceeded


def test_a_copy_for_another_item_keeps_the_rest() -> None:
    error = errors.Overloaded("full", remedy="wait", item=3, retry_after=1.5)
    moved = error.at(4)
    assert (moved.message, moved.remedy, moved.item, moved.retry_after) == ("full", "wait", 4, 1.5)
    assert error.item == 3
    assert type(errors.Unavailable("gone").at(None)) is errors.Unavailable


def test_the_reason_of_a_derived_class_is_its_base_in_the_tree() -> None:
    assert Undecodable("what").reason == "InvalidInput"
    assert errors.DeadlineExceeded("late").reason == "DeadlineExceeded"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no"), RuntimeError("can't start new thread")])
def test_an_exhausted_process_is_overloaded(error: Exception) -> None:
    assert isinstance(errors.exhausted(error), errors.Overloaded)


def test_an_error_of_the_tree_is_no_sign_of_an_exhausted_process() -> None:
    """Unavailable and DeadlineExceeded are an OSError too, and may repeat the words of one."""
    assert errors.exhausted(errors.Unavailable("too many open files")) is None
    assert errors.exhausted(errors.DeadlineExceeded("cannot allocate memory")) is None
